//! A second impression with the key of one that is still here: whether it says the same.
//!
//! In: two rows of one key. Out: the first column in which they differ, in words. Only where the first one's row is still
//! kept: behind that a second impression is known by its key alone, and is a duplicate whatever it says. Nothing is kept
//! for this, and only duplicates pay for it.

use arrow::{array::Array, util::display::array_value_to_string};
use tidemill_base::Result;

use super::{LabelJoin, rows::RowRef};

/// Characters of a value that are told.
const SHOWN_CHARS: usize = 64;

impl LabelJoin {
    /// The columns of an impression that its copies are compared by, beside its time; all unless somebody says otherwise. What
    /// feature views add depends on when a copy came, so it is not compared.
    pub fn compare_columns(&mut self, columns: Vec<usize>) {
        self.compared = columns;
    }

    /// In what an impression whose key is known differs from the one that was let in.
    pub(super) fn conflict(&mut self, side: usize, key: u64, ts: i64, this: RowRef) -> Result<Option<String>> {
        let side = &self.sides[side];
        let key_column = side.spec.left_key;
        let of_key = side.index.chain(key, &side.links).map(|slot| &self.pending[slot as usize]);
        let has_key = |row: RowRef| !side.key_is_text || self.left_rows.same_text(key_column, row, this);
        let Some(first) = of_key.filter(|p| p.stage.has_row()).find(|p| has_key(p.row)) else { return Ok(None) };
        let (first, first_ts) = (first.row, first.ts);
        self.left_rows.bring_back(&[first])?;
        let cell = |column: usize, row: RowRef| {
            let array = self.left_rows.column(column, row.batch);
            (array, row.row as usize)
        };
        let text = |(array, i): (&dyn Array, usize)| -> String {
            let text =
                if array.is_null(i) { "NULL".into() } else { array_value_to_string(array, i).unwrap_or_default() };
            text.chars().take(SHOWN_CHARS).collect()
        };
        let is_same = |(a, i): (&dyn Array, usize), (b, j): (&dyn Array, usize)| {
            a.slice(i, 1).to_data() == b.slice(j, 1).to_data()
        };
        let key = text(cell(key_column, this));
        let schema = self.left_rows.schema();
        let differs = self.compared.iter().copied().find(|&c| !is_same(cell(c, first), cell(c, this)));
        let what = match differs {
            Some(c) => {
                let name = schema.field(c).name();
                format!("'{name}' is '{}', was '{}'", text(cell(c, this)), text(cell(c, first)))
            }
            None if ts != first_ts => format!("its event time is {ts}, was {first_ts}"),
            None => return Ok(None),
        };
        let column = schema.field(key_column).name();
        Ok(Some(format!("conflicting duplicate of {column} {key}: {what}; the first one counts")))
    }
}
