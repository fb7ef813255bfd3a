//! A figure: one thing that was measured, of Mainstay and of what one would use instead.

use crate::samples::Samples;
use serde::{Deserialize, Serialize};

/// The subject that every other is compared with.
pub const MAINSTAY: &str = "mainstay";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The row of the bench that it belongs to.
    pub row: String,
    /// In words: `requests per second, 64 connections, 1 KB`.
    pub what: String,
    pub unit: String,
    pub better: Better,
    pub goal: Option<Goal>,
    /// How much there was of what the row varies, for the plot: 100, 1,000, 10,000 services.
    pub size: Option<u64>,
    pub series: Vec<Series>,
    /// What a reader has to know: errors, limits of the measurement.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    More,
    Less,
}

/// What Mainstay is to reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// A value in the figure's unit.
    Value(f64),
    /// Times what each of these reaches in the same run.
    Peers(Vec<(String, f64)>),
}

/// One program in all runs of a figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub subject: String,
    pub values: Samples,
}

impl Figure {
    pub fn new(row: &str, what: impl Into<String>, unit: &str, better: Better) -> Self {
        let (goal, size, series, notes) = (None, None, Vec::new(), Vec::new());
        Self { row: row.into(), what: what.into(), unit: unit.into(), better, goal, size, series, notes }
    }

    pub fn goal(mut self, value: f64) -> Self {
        self.goal = Some(Goal::Value(value));
        self
    }

    pub fn goal_of_peers(mut self, factors: &[(&str, f64)]) -> Self {
        self.goal = Some(Goal::Peers(factors.iter().map(|(peer, factor)| ((*peer).to_owned(), *factor)).collect()));
        self
    }

    pub fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    pub fn add(&mut self, subject: &str, value: f64) {
        match self.series.iter_mut().find(|series| series.subject == subject) {
            Some(series) => series.values.push(value),
            None => self.series.push(Series { subject: subject.into(), values: Samples::from_iter([value]) }),
        }
    }

    /// Says something once.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    pub fn median_of(&self, subject: &str) -> Option<f64> {
        self.series.iter().find(|series| series.subject == subject)?.values.median()
    }

    /// Whether Mainstay reaches the goal; `None` when there is none, or nothing to compare with.
    pub fn is_reached(&self) -> Option<bool> {
        let ours = self.median_of(MAINSTAY)?;
        let reaches = |limit: f64| match self.better {
            Better::More => ours >= limit,
            Better::Less => ours <= limit,
        };
        match self.goal.as_ref()? {
            Goal::Value(limit) => Some(reaches(*limit)),
            Goal::Peers(factors) => {
                let limits: Vec<f64> = factors
                    .iter()
                    .filter_map(|(peer, factor)| self.median_of(peer).map(|median| median * factor))
                    .collect();
                (!limits.is_empty()).then(|| limits.into_iter().all(reaches))
            }
        }
    }

    /// How much better Mainstay is than another: 2.0 is twice as good, whichever way good is.
    pub fn advantage_over(&self, subject: &str) -> Option<f64> {
        let (ours, theirs) = (self.median_of(MAINSTAY)?, self.median_of(subject)?);
        let ratio = match self.better {
            Better::More => ours / theirs,
            Better::Less => theirs / ours,
        };
        ratio.is_finite().then_some(ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(better: Better, ours: f64, theirs: f64) -> Figure {
        let mut figure = Figure::new("row", "what", "unit", better);
        figure.add(MAINSTAY, ours);
        figure.add("nginx", theirs);
        figure
    }

    #[test]
    fn an_advantage_above_one_is_good_whichever_way_good_is() {
        assert_eq!(figure(Better::More, 20.0, 10.0).advantage_over("nginx"), Some(2.0));
        assert_eq!(figure(Better::Less, 20.0, 10.0).advantage_over("nginx"), Some(0.5));
        assert_eq!(figure(Better::Less, 20.0, 10.0).advantage_over("caddy"), None);
    }

    #[test]
    fn a_goal_is_reached_or_missed_and_unknown_without_a_peer_to_compare_with() {
        assert_eq!(figure(Better::Less, 20.0, 10.0).goal(20.0).is_reached(), Some(true));
        assert_eq!(figure(Better::More, 19.0, 10.0).goal(20.0).is_reached(), Some(false));
        let against = |ours| figure(Better::More, ours, 10.0).goal_of_peers(&[("nginx", 2.0), ("caddy", 9.0)]);
        assert_eq!((against(20.0).is_reached(), against(19.0).is_reached()), (Some(true), Some(false)));
        assert_eq!(figure(Better::More, 1.0, 1.0).goal_of_peers(&[("caddy", 2.0)]).is_reached(), None);
        assert_eq!(figure(Better::More, 1.0, 1.0).is_reached(), None);
    }
}
