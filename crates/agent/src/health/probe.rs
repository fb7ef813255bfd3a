//! One question, one answer.
//!
//! HTTP is spoken by hand: a check needs one request line, one status line and a strict limit on
//! everything, and no redirect or pool. The rest of an answer is read and thrown away: who closes before it came
//! resets the connection under the service, which many frameworks log as an error of their own.

use super::{Age, diagnose, now_ms};
use crate::drivers::{CheckOutcome, DriverError, Workloads};
use api::ids::InstanceId;
use api::observed::ProbeResult;
use api::services::{HealthCheck, HealthSpec};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A process without a port is well when it lived this long.
const ALIVE_AFTER: Duration = Duration::from_secs(2);
/// Looking through `/proc` is not done more often.
const DIAGNOSIS_INTERVAL: Duration = Duration::from_secs(1);
/// A status line is far shorter.
const ANSWER_LIMIT_BYTES: u64 = 8 * 1024;

/// And the rest of an answer is read as far as this, and so long.
const REST_LIMIT_BYTES: u64 = 64 * 1024;
const REST_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Target {
    pub instance_id: InstanceId,
    pub socket: Option<SocketAddr>,
    pub age: Age,
}

pub struct Outcome {
    pub result: ProbeResult,
    /// When to ask again, if it is known better than by the interval.
    pub pause: Option<Duration>,
}

pub struct Prober<W> {
    driver: Arc<W>,
    target: Target,
    spec: HealthSpec,
    /// The last look at where the process listens.
    diagnosis: Option<(Instant, String)>,
}

/// Why a question got no good answer.
enum Failure {
    /// Nothing listens there; worth a look at where the process does listen.
    Refused,
    Other(String),
}

impl<W: Workloads> Prober<W> {
    pub fn new(driver: Arc<W>, target: Target, spec: HealthSpec) -> Self {
        Self { driver, target, spec, diagnosis: None }
    }

    pub async fn ask(&mut self) -> Outcome {
        let at_ms = now_ms();
        let begun = Instant::now();
        let timeout = Duration::from_millis(self.spec.timeout_ms.max(1));
        let mut pause = None;
        let answer = match (&self.spec.check, self.target.socket) {
            (HealthCheck::Process, _) => {
                let (answer, again) = self.process();
                pause = again;
                answer
            }
            (HealthCheck::Command { command }, _) => self.command(command, timeout).await,
            (HealthCheck::Image, _) => self.image(timeout).await,
            (HealthCheck::Http { path }, Some(socket)) => http(socket, path, timeout).await,
            (HealthCheck::Tcp, Some(socket)) => tcp(socket, timeout).await,
            (HealthCheck::Http { .. } | HealthCheck::Tcp, None) => Err(Failure::Other(
                "the service has no port, so it cannot be checked over one; set `port`, or check it by a command"
                    .into(),
            )),
        };
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (ok, message) = match answer {
            Ok(message) => (true, message),
            Err(Failure::Other(message)) => (false, message),
            Err(Failure::Refused) => (false, self.diagnose().await),
        };
        Outcome { result: ProbeResult { ok, at_ms, duration_ms, message }, pause }
    }

    fn process(&self) -> (Result<String, Failure>, Option<Duration>) {
        let age = self.target.age.now();
        if age >= ALIVE_AFTER {
            return (Ok("the process is alive".into()), None);
        }
        let message = format!("the process has not run for {} s yet", ALIVE_AFTER.as_secs());
        (Err(Failure::Other(message)), Some(ALIVE_AFTER.saturating_sub(age) + Duration::from_millis(5)))
    }

    async fn command(&self, command: &str, timeout: Duration) -> Result<String, Failure> {
        judge(self.driver.check(&self.target.instance_id, command, timeout).await)
    }

    async fn image(&self, timeout: Duration) -> Result<String, Failure> {
        judge(self.driver.check_of_image(&self.target.instance_id, timeout).await)
    }

    async fn diagnose(&mut self) -> String {
        let Some(socket) = self.target.socket else { return "the service has no port".into() };
        if let Some((at, text)) = &self.diagnosis
            && at.elapsed() < DIAGNOSIS_INTERVAL
        {
            return text.clone();
        }
        let listening = self.driver.listening(&self.target.instance_id).await;
        let text = diagnose::refused(socket, &listening);
        self.diagnosis = Some((Instant::now(), text.clone()));
        text
    }
}

fn judge(outcome: Result<CheckOutcome, DriverError>) -> Result<String, Failure> {
    match outcome {
        Ok(outcome) if outcome.ok => Ok(outcome.message),
        Ok(outcome) => Err(Failure::Other(outcome.message)),
        Err(error) => Err(Failure::Other(error.describe())),
    }
}

async fn connect(socket: SocketAddr, timeout: Duration) -> Result<TcpStream, Failure> {
    match tokio::time::timeout(timeout, TcpStream::connect(socket)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Err(Failure::Refused),
        Ok(Err(error)) => Err(Failure::Other(format!("could not connect to {socket}: {error}"))),
        Err(_) => Err(Failure::Other(format!("connecting to {socket} took longer than {}", shown(timeout)))),
    }
}

async fn tcp(socket: SocketAddr, timeout: Duration) -> Result<String, Failure> {
    connect(socket, timeout).await?;
    Ok(format!("{socket} accepts connections"))
}

async fn http(socket: SocketAddr, path: &str, timeout: Duration) -> Result<String, Failure> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let name = format!("GET http://{socket}{path}");
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(Failure::Other("the health path holds a space or control character; mend `health`".into()));
    }
    let begun = Instant::now();
    let mut stream = connect(socket, timeout).await?;
    let left = timeout.saturating_sub(begun.elapsed());
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {socket}\r\nUser-Agent: mainstay-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        status_line(&mut stream).await
    };
    let line = match tokio::time::timeout(left, exchange).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => return Err(Failure::Other(format!("{name}: the connection broke: {error}"))),
        Err(_) => return Err(Failure::Other(format!("{name} did not answer within {}", shown(timeout)))),
    };
    // The verdict is in: nobody waits for the rest, and whatever goes wrong with it changes nothing.
    tokio::spawn(async move {
        let mut rest = stream.take(REST_LIMIT_BYTES);
        let _ = tokio::time::timeout(REST_TIMEOUT, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    });
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(code @ 200..=399) => Ok(format!("{name} answered {code}")),
        Some(code) => Err(Failure::Other(format!("{name} answered {code}; a status from 200 to 399 is expected"))),
        None if line.is_empty() => Err(Failure::Other(format!("{name}: the connection was closed without an answer"))),
        None => Err(Failure::Other(format!(
            "{name}: the answer is not HTTP; check the port alone with `health = {{ tcp = true }}`"
        ))),
    }
}

async fn status_line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut data = Vec::new();
    let mut limited = stream.take(ANSWER_LIMIT_BYTES);
    while !data.contains(&b'\n') {
        if limited.read_buf(&mut data).await? == 0 {
            break;
        }
    }
    let line = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim().to_owned())
}

fn shown(time: Duration) -> String {
    if time.as_millis().is_multiple_of(1000) {
        format!("{} s", time.as_secs())
    } else {
        format!("{} ms", time.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answer_with(bytes: &'static [u8]) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(bytes).await;
            if bytes.is_empty() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
        http(socket, "/health", Duration::from_millis(300)).await.map_err(|failure| match failure {
            Failure::Refused => "refused".into(),
            Failure::Other(text) => text,
        })
    }

    #[tokio::test]
    async fn an_http_check_reads_the_status_and_says_what_was_wrong() {
        let good = answer_with(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert!(good.contains("/health answered 204"), "{good}");
        let redirect = answer_with(b"HTTP/1.0 302 Found\r\n\r\n").await.unwrap();
        assert!(redirect.contains("answered 302"), "{redirect}");
        let bad = answer_with(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await.unwrap_err();
        assert!(bad.contains("answered 503"), "{bad}");
        let other = answer_with(b"220 mail.example.com ESMTP\r\n").await.unwrap_err();
        assert!(other.contains("not HTTP"), "{other}");
        let silent = answer_with(b"").await.unwrap_err();
        assert!(silent.contains("did not answer within 300 ms"), "{silent}");
    }

    #[tokio::test]
    async fn a_service_can_say_all_of_its_answer_and_is_not_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = listener.local_addr().unwrap();
        let service = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert_ne!(stream.read(&mut request).await?, 0, "a request comes first");
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            // The verdict is known by now, and the answer goes on.
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                stream.write_all(b"and more of it\r\n").await?;
            }
            stream.shutdown().await?;
            stream.read(&mut request).await
        });
        assert!(http(socket, "/health", Duration::from_secs(5)).await.is_ok());
        assert_eq!(service.await.unwrap().unwrap(), 0, "the connection ends, and does not break");
    }
}
