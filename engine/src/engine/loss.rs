//! What goes with a drive that is lost while the store runs.

use super::Shared;

impl Shared {
    /// Forgets what was on a drive that is lost, and counts it: its entries, and the striped values
    /// that have a part there. What is in RAM is still served until it is evicted from there.
    pub(super) fn forget_drive(&self, drive: u8) {
        let tables = &self.tables;
        let mut count = 0;
        for stripes in tables.stripes.on_drive(drive) {
            count += u64::from(self.purge_stripes(&stripes));
        }
        count += tables.index.forget_drive(drive);
        tables.count_lost(count);
    }
}
