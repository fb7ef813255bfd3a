//! A door before every write, for tests: a database that is busy, a disk that is full, and a control
//! plane that dies between two writes are hard to come by otherwise. In production there is none.

use crate::{Dialect, Error, Result, Store};
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// Asked before every transaction that writes and every single statement that does.
pub trait Gate: Debug + Send + Sync {
    /// An error is what the caller gets instead, as [`Error::Unavailable`].
    fn before_write(&self) -> io::Result<()>;
}

impl Store {
    /// This store, with a gate before its writes. On SQLite all is read through one connection then:
    /// where nothing happens at once, more of them only prepare every statement once more.
    pub fn gated(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gate = Some(gate);
        if self.dialect == Dialect::Sqlite {
            let one = self.pool.options().clone().max_connections(1);
            self.pool = one.connect_lazy_with(self.pool.connect_options().as_ref().clone());
        }
        self
    }

    /// Whoever is about to write passes here.
    pub(crate) fn pass_gate(&self) -> Result<()> {
        match &self.gate {
            Some(gate) => gate.before_write().map_err(|error| Error::Unavailable(sqlx::Error::Io(error))),
            None => Ok(()),
        }
    }
}
