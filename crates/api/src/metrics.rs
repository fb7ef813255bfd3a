//! How much was used when: what Mainstay keeps about services and servers, to be drawn.
//!
//! A point is a span of time of which something is known. Spans of which nothing is known are left out: a gap
//! is not a zero.

use crate::UnixMillis;
use crate::ids::{DeploymentId, ServerId, ServiceId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How far back, and how finely.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MetricsRange {
    /// 120 points of 30 s.
    #[default]
    #[serde(rename = "1h")]
    Hour,
    /// 288 points of 5 min.
    #[serde(rename = "24h")]
    Day,
    /// 168 points of an hour.
    #[serde(rename = "7d")]
    Week,
}

impl MetricsRange {
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Week];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Week => "7d",
        }
    }

    /// How long a point is.
    pub fn step_ms(self) -> i64 {
        match self {
            Self::Hour => 30_000,
            Self::Day => 300_000,
            Self::Week => 3_600_000,
        }
    }

    /// How many points there are at the most, beside the one that is not over yet.
    pub fn points(self) -> i64 {
        match self {
            Self::Hour => 120,
            Self::Day => 288,
            Self::Week => 168,
        }
    }

    pub fn length_ms(self) -> i64 {
        self.step_ms() * self.points()
    }
}

impl fmt::Display for MetricsRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for MetricsRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|range| range.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is no range; there are 1h, 24h and 7d"))
    }
}

/// `GET /stacks/{stack}/services/{service}/metrics`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceMetrics {
    pub service_id: ServiceId,
    pub range: MetricsRange,
    pub from_ms: UnixMillis,
    /// The moment of the answer.
    pub until_ms: UnixMillis,
    /// How long one point is; the last may not be over yet.
    pub step_ms: i64,
    /// Oldest first; of what is missing nothing is known.
    pub points: Vec<ServicePoint>,
    /// Deployments that began within the range, oldest first; the newest 50.
    pub deployments: Vec<DeploymentMark>,
}

/// All instances of a service, on all servers, during one span of time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServicePoint {
    /// When it begins.
    pub at_ms: UnixMillis,
    /// Of how much of it something is known; rates and averages are over this.
    pub covered_ms: u64,
    /// Processor cores in use on average; 1.5 is one and a half cores.
    pub cpu_cores: f64,
    pub memory_bytes: u64,
    /// Instances that ran, on average.
    pub instances: f64,
    /// Answered by gateways.
    pub requests: u64,
    pub requests_per_second: f64,
    /// Answers with status 400 to 499.
    pub client_errors: u64,
    /// Answers with status 500 to 599, whoever made them.
    pub server_errors: u64,
    /// Bodies of answers.
    pub sent_bytes: u64,
    /// Until the first byte of the answer; absent without a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p50_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p99_ms: Option<f64>,
    /// How often a process ended by itself and was started again.
    pub restarts: u64,
}

impl ServicePoint {
    /// Of so many of something, in the time of which anything is known.
    pub fn per_second(&self, count: u64) -> f64 {
        count as f64 * 1000.0 / self.covered_ms.max(1) as f64
    }
}

/// A deployment that began at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentMark {
    pub deployment_id: DeploymentId,
    /// Number of the revision that it makes live.
    pub revision_number: u64,
    pub at_ms: UnixMillis,
}

/// `GET /servers/{server}/metrics`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerMetrics {
    pub server_id: ServerId,
    pub range: MetricsRange,
    pub from_ms: UnixMillis,
    /// The moment of the answer.
    pub until_ms: UnixMillis,
    /// How long one point is; the last may not be over yet.
    pub step_ms: i64,
    /// Oldest first; of what is missing nothing is known.
    pub points: Vec<ServerPoint>,
}

/// A machine with all that runs on it, during one span of time. Averages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerPoint {
    /// When it begins.
    pub at_ms: UnixMillis,
    /// Of how much of it something is known.
    pub covered_ms: u64,
    /// Processor cores in use; absent where the machine does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<f64>,
    pub cpu_count: f64,
    /// Processes that run or wait to, over a minute.
    pub load_1m: f64,
    pub memory_used_bytes: u64,
    pub memory_total_bytes: u64,
    /// Of the disk that holds what Mainstay keeps.
    pub disk_used_bytes: u64,
    pub disk_total_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_it_is_written_and_another_word_is_answered_with_what_there_is() {
        for range in MetricsRange::ALL {
            assert_eq!(range.as_str().parse(), Ok(range));
            assert_eq!(serde_json::to_value(range).unwrap(), range.as_str());
            assert!((120..=360).contains(&range.points()));
        }
        assert_eq!(MetricsRange::Week.length_ms(), 7 * 24 * 3_600_000);
        assert_eq!("2h".parse::<MetricsRange>(), Err("`2h` is no range; there are 1h, 24h and 7d".to_owned()));
    }
}
