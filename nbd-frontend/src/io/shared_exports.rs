//! The table of exports as threads share it: the node replaces it whole, readers take a snapshot.

use std::sync::{Arc, PoisonError, RwLock};

use crate::exports::ExportTable;

/// A handle to the current table; clones are the same table.
#[derive(Clone, Debug, Default)]
pub struct SharedExports(Arc<RwLock<Arc<ExportTable>>>);

impl SharedExports {
    /// Shares `table`.
    pub fn new(table: ExportTable) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(table))))
    }

    /// The table as it is now.
    pub fn snapshot(&self) -> Arc<ExportTable> {
        // A writer only moves a pointer: there is no half-written table behind a poisoned lock.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts `table` in place of the current one.
    pub fn replace(&self, table: ExportTable) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}
