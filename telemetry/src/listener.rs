//! A tiny HTTP listener that serves `/metrics`, for processes that have no web server of their own.
//!
//! One thread, one request at a time, each with two seconds to be read and answered: a scraper asks a
//! few times a minute.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::exposition::Format;
use crate::hub::Telemetry;

/// The most bytes a request's head may have.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// What reading and answering a request may each take.
const REQUEST_TIME: Duration = Duration::from_secs(2);

/// The listener; it stops when it is dropped.
#[derive(Debug)]
pub struct MetricsListener {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[error("serve metrics on {address}; name a free HOST:PORT of this machine")]
pub struct ListenError {
    /// As configured.
    address: String,
    #[source]
    source: io::Error,
}

impl MetricsListener {
    /// Serves `telemetry` at `address` (`HOST:PORT`; port 0 takes any).
    ///
    /// # Errors
    /// When the address can't be resolved or is in use.
    pub fn start(address: &str, telemetry: Telemetry) -> Result<MetricsListener, ListenError> {
        let failed = |source| ListenError {
            address: address.to_owned(),
            source,
        };
        // ":9090" means all addresses, as elsewhere in this ecosystem.
        let full = if address.starts_with(':') {
            format!("0.0.0.0{address}")
        } else {
            address.to_owned()
        };
        let resolved: Vec<_> = full.to_socket_addrs().map_err(failed)?.collect();
        let listener = TcpListener::bind(&resolved[..]).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let its_stop = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("memkv-metrics".to_owned())
            .spawn(move || {
                for stream in listener.incoming() {
                    if its_stop.load(Ordering::Acquire) {
                        return;
                    }
                    match stream {
                        // A scraper that went away has no one left to be told.
                        Ok(stream) => _ = answer(stream, &telemetry),
                        // Out of descriptors: accepting again at once would only spin.
                        Err(_) => std::thread::sleep(Duration::from_millis(100)),
                    }
                }
            })
            .map_err(|source| ListenError {
                address: full,
                source,
            })?;
        Ok(MetricsListener {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsListener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let mut to = self.address;
        if to.ip().is_unspecified() {
            to.set_ip(if to.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                [0u16, 0, 0, 0, 0, 0, 0, 1].into()
            });
        }
        // Wakes it; where that fails it stays until the process ends.
        if TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok() {
            self.thread.take().map(JoinHandle::join);
        }
    }
}

fn answer(mut stream: TcpStream, telemetry: &Telemetry) -> io::Result<()> {
    let deadline = Instant::now() + REQUEST_TIME;
    stream.set_write_timeout(Some(REQUEST_TIME))?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > HEAD_BYTES_MAX {
            return reply(
                &mut stream,
                "400 Bad Request",
                "text/plain",
                "bad request\n",
            );
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            n => head.extend_from_slice(&piece[..n]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines();
    let request: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let accept = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("accept").then(|| value.trim())
    });
    match request[..] {
        ["GET", "/metrics" | "/v1/metrics", _] => {
            let format = Format::from_accept(accept.unwrap_or_default());
            reply(
                &mut stream,
                "200 OK",
                format.content_type(),
                &telemetry.render(format),
            )
        }
        ["GET", _, _] => reply(&mut stream, "404 Not Found", "text/plain", "see /metrics\n"),
        _ => reply(
            &mut stream,
            "405 Method Not Allowed",
            "text/plain",
            "only GET\n",
        ),
    }
}

fn reply(stream: &mut TcpStream, status: &str, kind: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::TelemetryConfig;
    use crate::timeline::Role;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    #[test]
    fn metrics_are_served_in_the_accepted_format_and_nothing_else_is() {
        let telemetry = Telemetry::new(TelemetryConfig::new(Role::Client, "1.2.3")).unwrap();
        let listener = MetricsListener::start("127.0.0.1:0", telemetry.clone()).unwrap();
        let check = |request: &str, status: &str, part: &str| {
            let reply = ask(listener.address(), request);
            assert!(
                reply.starts_with(&format!("HTTP/1.1 {status}")),
                "{request:?}: {reply}"
            );
            assert!(reply.contains(part), "{request:?}: {reply}");
        };
        check(
            "GET /metrics HTTP/1.1\r\n\r\n",
            "200",
            "memkv_build_info{version=\"1.2.3\"} 1",
        );
        check(
            "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n",
            "200",
            "# EOF",
        );
        check("GET /other HTTP/1.1\r\n\r\n", "404", "/metrics");
        check("POST /metrics HTTP/1.1\r\n\r\n", "405", "only GET");
        let endless = format!("GET /metrics HTTP/1.1\r\n{}", "X: y\r\n".repeat(2000));
        let mut stream = TcpStream::connect(listener.address()).unwrap();
        _ = stream.write_all(endless.as_bytes());
        let mut reply = String::new();
        _ = stream.read_to_string(&mut reply);
        assert!(
            !reply.contains("memkv_build_info"),
            "an endless head is refused"
        );
        drop(stream);
        telemetry.shutdown(Duration::from_secs(1));
    }

    #[test]
    fn an_address_in_use_is_an_error_that_names_it() {
        let telemetry = Telemetry::new(TelemetryConfig::new(Role::Client, "1")).unwrap();
        let first = MetricsListener::start("127.0.0.1:0", telemetry.clone()).unwrap();
        let address = first.address().to_string();
        let refused = MetricsListener::start(&address, telemetry).unwrap_err();
        assert!(refused.to_string().contains(&address), "{refused}");
    }
}
