//! Grafana dashboards and Prometheus rules, generated from the declared table of series.
