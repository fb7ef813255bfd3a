//! The few calls of SQLite's C interface that the driver needs.

// There is no other way to C.
#![allow(unsafe_code)]

use libsqlite3_sys as c;
use sqlx_core::any::{AnyColumn, AnyTypeInfo, AnyTypeInfoKind, AnyValueKind};
use sqlx_core::error::{DatabaseError, ErrorKind};
use sqlx_core::ext::ustr::UStr;
use sqlx_core::{Error, HashMap};
use std::borrow::Cow;
use std::error::Error as StdError;
use std::ffi::{CStr, c_int};
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

/// What SQLite says when it refuses.
#[derive(Debug)]
pub struct Refused {
    code: c_int,
    message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "(code: {}) {}", self.code, self.message)
    }
}

impl StdError for Refused {}

impl DatabaseError for Refused {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.to_string().into())
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        match self.code {
            c::SQLITE_CONSTRAINT_UNIQUE | c::SQLITE_CONSTRAINT_PRIMARYKEY => ErrorKind::UniqueViolation,
            c::SQLITE_CONSTRAINT_FOREIGNKEY => ErrorKind::ForeignKeyViolation,
            c::SQLITE_CONSTRAINT_NOTNULL => ErrorKind::NotNullViolation,
            c::SQLITE_CONSTRAINT_CHECK => ErrorKind::CheckViolation,
            _ => ErrorKind::Other,
        }
    }
}

/// SQLite counts every piece of memory under a lock, for whoever asks how much there is. Nobody does.
pub fn count_no_memory() {
    // SAFETY: nothing of SQLite has been called before, and this setting takes one number.
    let code = unsafe { c::sqlite3_config(c::SQLITE_CONFIG_MEMSTATUS, 0 as c_int) };
    // It would only be slower.
    debug_assert_eq!(code, c::SQLITE_OK);
}

/// An open database.
#[derive(Debug)]
pub struct Database(NonNull<c::sqlite3>);

// SAFETY: SQLite is built for several threads, and a connection is used by one after the other: whoever uses
// it has `&mut` to what holds it.
unsafe impl Send for Database {}

impl Database {
    /// An empty one, in memory.
    pub fn new() -> Result<Self, Error> {
        let flags = c::SQLITE_OPEN_READWRITE | c::SQLITE_OPEN_CREATE | c::SQLITE_OPEN_NOMUTEX;
        let mut handle = null_mut();
        // SAFETY: the name ends with a zero; `handle` is written by the call.
        let code = unsafe { c::sqlite3_open_v2(c":memory:".as_ptr(), &mut handle, flags, null()) };
        let database = Self(NonNull::new(handle).ok_or(Error::WorkerCrashed)?);
        if code != c::SQLITE_OK {
            return Err(database.refused());
        }
        // SAFETY: the handle is open.
        unsafe { c::sqlite3_extended_result_codes(database.0.as_ptr(), 1) };
        Ok(database)
    }

    /// Another one with the same content.
    pub fn copy(&self) -> Result<Self, Error> {
        let to = Self::new()?;
        let main = c"main".as_ptr();
        // SAFETY: both handles are open, and what is begun is finished before either is closed.
        let code = unsafe {
            let copying = c::sqlite3_backup_init(to.0.as_ptr(), main, self.0.as_ptr(), main);
            if copying.is_null() {
                return Err(to.refused());
            }
            c::sqlite3_backup_step(copying, -1);
            c::sqlite3_backup_finish(copying)
        };
        if code == c::SQLITE_OK { Ok(to) } else { Err(to.refused()) }
    }

    fn refused(&self) -> Error {
        refused(self.0)
    }

    /// The first statement of a text, and the text after it; `None` if there is no statement left.
    pub fn prepare<'a>(&self, sql: &'a str) -> Result<Option<(Statement, &'a str)>, Error> {
        let mut rest = sql;
        while !rest.trim().is_empty() {
            let length = c_int::try_from(rest.len()).map_err(|e| Error::Encode(e.into()))?;
            let (mut handle, mut tail) = (null_mut(), null());
            // SAFETY: the text is as long as said; what is written to the pointers is read only on success.
            let code =
                unsafe { c::sqlite3_prepare_v2(self.0.as_ptr(), rest.as_ptr().cast(), length, &mut handle, &mut tail) };
            if code != c::SQLITE_OK {
                return Err(self.refused());
            }
            let done = (tail as usize).saturating_sub(rest.as_ptr() as usize);
            rest = rest.get(done..).unwrap_or_default();
            // Nothing but a comment is no statement.
            if let Some(handle) = NonNull::new(handle) {
                return Ok(Some((Statement::new(handle), rest)));
            }
        }
        Ok(None)
    }

    /// Rows that the last statement which wrote has written.
    pub fn changes(&self) -> u64 {
        // SAFETY: the handle is open.
        u64::try_from(unsafe { c::sqlite3_changes(self.0.as_ptr()) }).unwrap_or(0)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // SAFETY: opened once and closed once, after its statements.
        unsafe { c::sqlite3_close(self.0.as_ptr()) };
    }
}

fn refused(database: NonNull<c::sqlite3>) -> Error {
    // SAFETY: the handle is open, and the message is copied before anything else is asked of it.
    let (code, message) = unsafe {
        let message = CStr::from_ptr(c::sqlite3_errmsg(database.as_ptr()));
        (c::sqlite3_extended_errcode(database.as_ptr()), message.to_string_lossy().into_owned())
    };
    Error::Database(Box::new(Refused { code, message }))
}

/// A prepared statement.
#[derive(Debug)]
pub struct Statement {
    handle: NonNull<c::sqlite3_stmt>,
    /// Which value each parameter is, from 1 on. To SQLite `$3` is a name, not a number.
    parameters: Vec<usize>,
    pub columns: Vec<AnyColumn>,
    pub column_names: Arc<HashMap<UStr, usize>>,
}

// SAFETY: as for the database that it belongs to.
unsafe impl Send for Statement {}

impl Statement {
    fn new(handle: NonNull<c::sqlite3_stmt>) -> Self {
        // SAFETY: the statement is prepared.
        let count = unsafe { c::sqlite3_column_count(handle.as_ptr()) };
        let name = |index| {
            // SAFETY: the column exists; its name lives as long as the statement and is copied.
            let name = unsafe { CStr::from_ptr(c::sqlite3_column_name(handle.as_ptr(), index)) };
            UStr::new(&name.to_string_lossy())
        };
        let names: Vec<UStr> = (0..count).map(name).collect();
        let column_names = names.iter().cloned().zip(0..).collect();
        let type_info = AnyTypeInfo { kind: AnyTypeInfoKind::Null };
        let columns =
            names.into_iter().zip(0..).map(|(name, ordinal)| AnyColumn { ordinal, name, type_info: type_info.clone() });
        // SAFETY: the statement is prepared.
        let parameters = unsafe { c::sqlite3_bind_parameter_count(handle.as_ptr()) };
        let number = |position| {
            // SAFETY: the parameter exists; its name is null or lives as long as the statement.
            let name = unsafe {
                let name = c::sqlite3_bind_parameter_name(handle.as_ptr(), position);
                (!name.is_null()).then(|| CStr::from_ptr(name))
            };
            let number = name.and_then(|name| name.to_str().ok()).and_then(|name| name.get(1..)?.parse().ok());
            number.unwrap_or(usize::try_from(position).unwrap_or(0))
        };
        let parameters = (1..=parameters).map(number).collect();
        Self { handle, parameters, columns: columns.collect(), column_names: Arc::new(column_names) }
    }

    fn checked(&self, code: c_int) -> Result<(), Error> {
        if code == c::SQLITE_OK {
            return Ok(());
        }
        // SAFETY: a statement belongs to an open database.
        let database = NonNull::new(unsafe { c::sqlite3_db_handle(self.handle.as_ptr()) });
        Err(database.map_or(Error::WorkerCrashed, refused))
    }

    /// Gives every parameter its value: `$3` the third, wherever in the text it comes first.
    pub fn bind_all(&mut self, values: &[AnyValueKind]) -> Result<(), Error> {
        for position in 0..self.parameters.len() {
            let which = self.parameters[position];
            let missing =
                || Error::Encode(format!("the statement has a parameter ${which}, and no value for it").into());
            let value = which.checked_sub(1).and_then(|index| values.get(index)).ok_or_else(missing)?;
            self.bind(position + 1, value)?;
        }
        Ok(())
    }

    fn bind(&mut self, number: usize, value: &AnyValueKind) -> Result<(), Error> {
        let number = c_int::try_from(number).map_err(|e| Error::Encode(e.into()))?;
        let handle = self.handle.as_ptr();
        // SAFETY: the statement is prepared, and SQLite copies texts and bytes before the call returns.
        let code = unsafe {
            match value {
                AnyValueKind::Null(_) => c::sqlite3_bind_null(handle, number),
                AnyValueKind::Bool(value) => c::sqlite3_bind_int64(handle, number, i64::from(*value)),
                AnyValueKind::SmallInt(value) => c::sqlite3_bind_int64(handle, number, i64::from(*value)),
                AnyValueKind::Integer(value) => c::sqlite3_bind_int64(handle, number, i64::from(*value)),
                AnyValueKind::BigInt(value) => c::sqlite3_bind_int64(handle, number, *value),
                AnyValueKind::Real(value) => c::sqlite3_bind_double(handle, number, f64::from(*value)),
                AnyValueKind::Double(value) => c::sqlite3_bind_double(handle, number, *value),
                AnyValueKind::Text(text) => bind_text(handle, number, text),
                AnyValueKind::TextSlice(text) => bind_text(handle, number, text),
                AnyValueKind::Blob(bytes) => c::sqlite3_bind_blob64(
                    handle,
                    number,
                    bytes.as_ptr().cast(),
                    bytes.len() as u64,
                    c::SQLITE_TRANSIENT(),
                ),
                other => return Err(Error::Encode(format!("no value of SQLite: {other:?}").into())),
            }
        };
        self.checked(code)
    }

    pub fn only_reads(&self) -> bool {
        // SAFETY: the statement is prepared.
        unsafe { c::sqlite3_stmt_readonly(self.handle.as_ptr()) != 0 }
    }

    /// Whether there is a row; if there is none, the statement is done.
    pub fn step(&mut self) -> Result<bool, Error> {
        // SAFETY: the statement is prepared.
        match unsafe { c::sqlite3_step(self.handle.as_ptr()) } {
            c::SQLITE_ROW => Ok(true),
            c::SQLITE_DONE => Ok(false),
            code => self.checked(code).map(|()| false),
        }
    }

    /// A value of the row that the last step found.
    pub fn value(&self, column: usize) -> Result<AnyValueKind, Error> {
        let handle = self.handle.as_ptr();
        let column = c_int::try_from(column).map_err(|e| Error::Decode(e.into()))?;
        // SAFETY: the statement stands on a row. Bytes are valid until the next call for this column, have the
        // length that is asked for after them, and are copied.
        Ok(unsafe {
            match c::sqlite3_column_type(handle, column) {
                c::SQLITE_INTEGER => AnyValueKind::BigInt(c::sqlite3_column_int64(handle, column)),
                c::SQLITE_FLOAT => AnyValueKind::Double(c::sqlite3_column_double(handle, column)),
                c::SQLITE_TEXT => {
                    let text = c::sqlite3_column_text(handle, column);
                    let bytes = copied(text, c::sqlite3_column_bytes(handle, column));
                    AnyValueKind::Text(Arc::new(String::from_utf8(bytes).map_err(|e| Error::Decode(e.into()))?))
                }
                c::SQLITE_BLOB => {
                    let bytes = c::sqlite3_column_blob(handle, column);
                    let bytes = copied(bytes.cast(), c::sqlite3_column_bytes(handle, column));
                    AnyValueKind::Blob(Arc::new(bytes))
                }
                _ => AnyValueKind::Null(AnyTypeInfoKind::Null),
            }
        })
    }

    /// Ready to be run again. What the last run failed with was said then.
    pub fn reset(&mut self) {
        // SAFETY: the statement is prepared.
        unsafe {
            c::sqlite3_reset(self.handle.as_ptr());
            c::sqlite3_clear_bindings(self.handle.as_ptr());
        }
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: prepared once and given back once.
        unsafe { c::sqlite3_finalize(self.handle.as_ptr()) };
    }
}

/// # Safety
/// `handle` is a prepared statement.
unsafe fn bind_text(handle: *mut c::sqlite3_stmt, number: c_int, text: &str) -> c_int {
    let (start, length) = (text.as_ptr().cast(), text.len() as u64);
    // SAFETY: the caller's word, and the text is copied.
    unsafe { c::sqlite3_bind_text64(handle, number, start, length, c::SQLITE_TRANSIENT(), c::SQLITE_UTF8 as u8) }
}

/// # Safety
/// `length` bytes may be read from `start`, unless it is null.
unsafe fn copied(start: *const u8, length: c_int) -> Vec<u8> {
    let length = usize::try_from(length).unwrap_or(0);
    if start.is_null() || length == 0 {
        return Vec::new();
    }
    // SAFETY: the caller's word.
    unsafe { std::slice::from_raw_parts(start, length) }.to_vec()
}
