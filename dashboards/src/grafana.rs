//! Grafana's dashboard JSON: panels in, one document out.
//!
//! The model is that of Grafana 9.3 (schema 37), which later versions migrate by themselves. What
//! every panel of ours must have (title, description, unit, data source) is a required argument
//! here, and the fixed conventions (not editable, stable uid, variables) are written in one place.

use serde_json::{Map, Value, json};

use crate::promql::Expr;

/// Grafana's grid is 24 columns wide.
const GRID_COLUMNS: u32 = 24;
const SCHEMA: u32 = 37;

/// Unit ids of Grafana; the closed list that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Plain numbers.
    Short,
    /// Seconds; shown as ns to days.
    Seconds,
    /// Bytes in powers of 2.
    Bytes,
    /// Bytes per second in powers of 2.
    BytesPerSecond,
    /// Operations per second.
    OpsPerSecond,
    /// Events per second that are no operations.
    CountsPerSecond,
    /// 0 to 1, shown as percent.
    Ratio,
}

impl Unit {
    fn id(self) -> &'static str {
        match self {
            Unit::Short => "short",
            Unit::Seconds => "s",
            Unit::Bytes => "bytes",
            Unit::BytesPerSecond => "binBps",
            Unit::OpsPerSecond => "ops",
            Unit::CountsPerSecond => "cps",
            Unit::Ratio => "percentunit",
        }
    }
}

/// How a panel draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Lines over time.
    Lines,
    /// Areas on top of each other: only for what sums to something.
    Stack,
    /// The latest value, large.
    Stat,
    /// A histogram's buckets over time.
    Heatmap,
    /// The latest values as rows.
    Table,
}

/// One expression of a panel.
#[derive(Clone, Debug)]
pub struct Target {
    /// What is asked.
    pub expr: Expr,
    /// Grafana's legend template, such as `{{op}}`.
    pub legend: String,
    /// Whether points of this query show their exemplars, which link to traces.
    pub has_exemplars: bool,
}

/// One panel; its place follows from the order of panels and their widths.
#[derive(Clone, Debug)]
pub struct Panel {
    title: &'static str,
    description: &'static str,
    shape: Shape,
    unit: Unit,
    width: u32,
    targets: Vec<Target>,
    /// Values from which a stat turns yellow and red.
    thresholds: Option<(f64, f64)>,
    /// What the legend's or the cell's numbers read as, such as 0 → "down".
    mappings: Vec<(u32, &'static str, &'static str)>,
}

impl Panel {
    /// A panel without targets; a width is of 24 columns.
    pub fn new(
        title: &'static str,
        shape: Shape,
        unit: Unit,
        width: u32,
        description: &'static str,
    ) -> Panel {
        Panel {
            title,
            description,
            shape,
            unit,
            width,
            targets: Vec::new(),
            thresholds: None,
            mappings: Vec::new(),
        }
    }

    /// Adds an expression; see [`Target::legend`].
    pub fn target(mut self, legend: impl Into<String>, expr: Expr) -> Panel {
        self.targets.push(Target {
            expr,
            legend: legend.into(),
            has_exemplars: false,
        });
        self
    }

    /// Shows the exemplars of all targets so far.
    pub fn with_exemplars(mut self) -> Panel {
        for target in &mut self.targets {
            target.has_exemplars = true;
        }
        self
    }

    /// Yellow from `warn` and red from `bad`; with `warn > bad`, yellow and red below them.
    pub fn thresholds(mut self, warn: f64, bad: f64) -> Panel {
        self.thresholds = Some((warn, bad));
        self
    }

    /// Shows `value` as `text` in `color`.
    pub fn mapping(mut self, value: u32, text: &'static str, color: &'static str) -> Panel {
        self.mappings.push((value, text, color));
        self
    }

    /// Its expressions.
    pub fn exprs(&self) -> impl Iterator<Item = &Expr> {
        self.targets.iter().map(|target| &target.expr)
    }

    /// Its title.
    pub fn title(&self) -> &'static str {
        self.title
    }

    fn height(&self) -> u32 {
        match self.shape {
            Shape::Stat => 4,
            Shape::Heatmap => 9,
            Shape::Lines | Shape::Stack | Shape::Table => 8,
        }
    }

    fn json(&self, id: u32, x: u32, y: u32) -> Value {
        let targets: Vec<Value> = (b'A'..=b'Z')
            .zip(&self.targets)
            .map(|(letter, target)| self.target_json(char::from(letter), target))
            .collect();
        let mut panel = json!({
            "id": id,
            "type": self.kind(),
            "title": self.title,
            "description": self.description,
            "datasource": datasource(),
            "gridPos": { "h": self.height(), "w": self.width, "x": x, "y": y },
            "targets": targets,
            "fieldConfig": { "defaults": self.field_defaults(), "overrides": [] },
            "options": self.options(),
        });
        if self.shape == Shape::Table {
            panel["transformations"] = json!([
                { "id": "organize", "options": { "excludeByName": { "Time": true, "__name__": true } } },
            ]);
        }
        panel
    }

    fn kind(&self) -> &'static str {
        match self.shape {
            Shape::Lines | Shape::Stack => "timeseries",
            Shape::Stat => "stat",
            Shape::Heatmap => "heatmap",
            Shape::Table => "table",
        }
    }

    fn target_json(&self, letter: char, target: &Target) -> Value {
        let is_table = self.shape == Shape::Table;
        let format = match self.shape {
            Shape::Heatmap => "heatmap",
            Shape::Table => "table",
            _ => "time_series",
        };
        json!({
            "refId": letter.to_string(),
            "datasource": datasource(),
            "expr": target.expr.as_str(),
            "legendFormat": target.legend,
            "format": format,
            "exemplar": target.has_exemplars,
            "instant": is_table,
            "range": !is_table,
        })
    }

    fn field_defaults(&self) -> Value {
        let mut defaults = Map::new();
        defaults.insert("unit".into(), json!(self.unit.id()));
        if self.unit == Unit::Ratio || matches!(self.shape, Shape::Lines | Shape::Stack) {
            defaults.insert("min".into(), json!(0));
        }
        if let Some((warn, bad)) = self.thresholds {
            let mut steps = vec![(warn, "yellow"), (bad, "red")];
            let mut base = "green";
            if warn > bad {
                // Low is bad: red from the start, yellow from `bad`, green from `warn`.
                steps = vec![(bad, "yellow"), (warn, "green")];
                base = "red";
            }
            let mut all = vec![json!({ "color": base, "value": null })];
            all.extend(
                steps
                    .iter()
                    .map(|(value, color)| json!({ "color": color, "value": value })),
            );
            defaults.insert(
                "thresholds".into(),
                json!({ "mode": "absolute", "steps": all }),
            );
        }
        if !self.mappings.is_empty() {
            let options: Map<String, Value> = self
                .mappings
                .iter()
                .map(|(value, text, color)| {
                    (value.to_string(), json!({ "text": text, "color": color }))
                })
                .collect();
            let mappings = json!([{ "type": "value", "options": options }]);
            defaults.insert("mappings".into(), mappings);
        }
        match self.shape {
            Shape::Stack => {
                let custom = json!({
                    "fillOpacity": 60, "lineWidth": 1, "showPoints": "never",
                    "stacking": { "mode": "normal", "group": "A" },
                });
                defaults.insert("custom".into(), custom);
            }
            Shape::Lines => {
                let custom = json!({ "fillOpacity": 8, "lineWidth": 1, "showPoints": "never" });
                defaults.insert("custom".into(), custom);
            }
            Shape::Stat | Shape::Heatmap | Shape::Table => {}
        }
        Value::Object(defaults)
    }

    fn options(&self) -> Value {
        match self.shape {
            Shape::Lines | Shape::Stack => json!({
                "legend": { "displayMode": "table", "placement": "bottom", "showLegend": true,
                            "calcs": ["mean", "max", "lastNotNull"] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Shape::Stat => json!({
                "colorMode": "value", "graphMode": "area", "justifyMode": "auto",
                "orientation": "auto", "textMode": "auto",
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
            }),
            Shape::Heatmap => json!({
                // The buckets come from Prometheus: nothing is to be counted again.
                "calculate": false,
                "cellGap": 1,
                "cellValues": { "unit": Unit::Short.id() },
                "color": { "mode": "scheme", "scheme": "Turbo", "steps": 64, "exponent": 0.5,
                           "fill": "dark-orange", "scale": "exponential", "reverse": false },
                "exemplars": { "color": "rgba(255,0,255,0.7)" },
                "filterValues": { "le": 1e-9 },
                "legend": { "show": true },
                "rowsFrame": { "layout": "auto" },
                "tooltip": { "show": true, "yHistogram": true },
                "yAxis": { "axisPlacement": "left", "reverse": false, "unit": self.unit.id() },
            }),
            Shape::Table => json!({ "showHeader": true, "footer": { "show": false } }),
        }
    }
}

/// Panels under one heading.
#[derive(Clone, Debug)]
pub struct Row {
    /// Heading.
    pub title: &'static str,
    /// In reading order; a panel that doesn't fit the line starts the next one.
    pub panels: Vec<Panel>,
}

/// One dashboard.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// Never changes, so that links and stars survive an import of a new version.
    pub uid: &'static str,
    /// Shown in lists.
    pub title: &'static str,
    /// What it answers.
    pub description: &'static str,
    /// Extra template variables after datasource, job and instance: name, label, query.
    pub variables: Vec<(&'static str, &'static str, String)>,
    /// Top to bottom.
    pub rows: Vec<Row>,
}

impl Dashboard {
    /// All panels, top to bottom.
    pub fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|row| &row.panels)
    }

    /// The document, with a line feed at its end.
    pub fn render(&self, job_series: &str) -> String {
        let mut variables = vec![datasource_variable()];
        let job = format!("label_values({job_series}, job)");
        let instance = format!("label_values({job_series}{{job=~\"$job\"}}, instance)");
        variables.push(query_variable("job", "Job", &job));
        variables.push(query_variable("instance", "Instance", &instance));
        for (name, label, query) in &self.variables {
            variables.push(query_variable(name, label, query));
        }
        let dashboard = json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["memkv"],
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": false,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "browser",
            "templating": { "list": variables },
            "annotations": { "list": [alert_annotation()] },
            "links": [{
                "type": "dashboards", "title": "memkv", "tags": ["memkv"], "asDropdown": true,
                "includeVars": true, "keepTime": true, "targetBlank": false, "icon": "external link",
            }],
            "panels": self.panels_json(),
        });
        let mut text = serde_json::to_string_pretty(&dashboard).expect("JSON values serialise");
        text.push('\n');
        text
    }

    fn panels_json(&self) -> Vec<Value> {
        let mut panels = Vec::new();
        let mut id = 0;
        let mut y = 0;
        for row in &self.rows {
            id += 1;
            panels.push(json!({
                "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
                "gridPos": { "h": 1, "w": GRID_COLUMNS, "x": 0, "y": y },
            }));
            y += 1;
            let (mut x, mut line_height) = (0, 0);
            for panel in &row.panels {
                if x + panel.width > GRID_COLUMNS {
                    (x, y) = (0, y + line_height);
                    line_height = 0;
                }
                id += 1;
                panels.push(panel.json(id, x, y));
                x += panel.width;
                line_height = line_height.max(panel.height());
            }
            y += line_height;
        }
        panels
    }
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn datasource_variable() -> Value {
    json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
        "refresh": 1, "hide": 0, "includeAll": false, "multi": false, "options": [], "current": {},
        "regex": "", "skipUrlSync": false,
    })
}

fn query_variable(name: &str, label: &str, query: &str) -> Value {
    json!({
        "name": name, "label": label, "type": "query", "datasource": datasource(),
        "definition": query,
        "query": { "query": query, "refId": "StandardVariableQuery" },
        // On time range change: an instance that came or went is in the list for its time.
        "refresh": 2,
        "includeAll": true, "allValue": ".+", "multi": true,
        "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
        "hide": 0, "options": [], "regex": "", "skipUrlSync": false, "sort": 1,
    })
}

/// Draws firing memkv alerts over every panel.
fn alert_annotation() -> Value {
    json!({
        "name": "Alerts", "enable": true, "hide": false, "iconColor": "red",
        "datasource": datasource(),
        "expr": "ALERTS{alertname=~\"Memkv.+\", alertstate=\"firing\", job=~\"$job\"}",
        "titleFormat": "{{alertname}}", "tagKeys": "instance,severity", "step": "60s",
    })
}
