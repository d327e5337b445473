//! The entries of the COLUMN clause, as values.

use std::fmt::{self, Display, Formatter};

/// One entry of the COLUMN clause, by column name.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnSpec {
    /// `x`: by the column's type. Whole numbers, text, truth values and times give a key for each distinct value;
    /// floating-point numbers are as `NUMERIC(x)`, sparse ones as `SPARSE(x)`.
    Plain {
        /// The column.
        column: String,
    },
    /// `NUMERIC(x)`: one key, whose value is the number; NULL contributes nothing.
    Numeric {
        /// The column.
        column: String,
    },
    /// `CATEGORY_ID(x)`: a key for each distinct value, whatever the type; NULL is a value of its own.
    Category {
        /// The column.
        column: String,
    },
    /// `CATEGORY_HASH(x, n)`: values are hashed into `buckets` keys.
    Hash {
        /// The column.
        column: String,
        /// Number of keys.
        buckets: u64,
    },
    /// `BUCKET(x, [b1, b2])`: a key for each interval between boundaries, [b1, b2) and so on; NULL is one of its own.
    Bucket {
        /// The column.
        column: String,
        /// Ascending.
        boundaries: Vec<f64>,
    },
    /// `CROSS([a, b])` or `CROSS([a, b], n)`: a key for each combination of values; `n` bounds how many.
    Cross {
        /// What is combined; not numbers as such, not sparse columns, not crosses.
        columns: Vec<ColumnSpec>,
        /// Number of keys.
        buckets: Option<u64>,
    },
    /// `SPARSE(x)`: a list of (index, value); a key for each index.
    Sparse {
        /// The column.
        column: String,
    },
}

impl ColumnSpec {
    /// Name of the slot. Keys are hashed under it, so it is part of the model.
    pub fn slot_name(&self) -> String {
        match self {
            Self::Plain { column } | Self::Numeric { column } | Self::Category { column } | Self::Sparse { column } => {
                column.clone()
            }
            Self::Hash { column, buckets } => format!("{column}%{buckets}"),
            Self::Bucket { column, .. } => format!("bucket({column})"),
            Self::Cross { columns, buckets } => {
                let names = columns.iter().map(Self::slot_name).collect::<Vec<_>>().join("*");
                buckets.map_or(names.clone(), |n| format!("{names}%{n}"))
            }
        }
    }

    /// Columns it reads.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Self::Plain { column }
            | Self::Numeric { column }
            | Self::Category { column }
            | Self::Hash { column, .. }
            | Self::Bucket { column, .. }
            | Self::Sparse { column } => vec![column],
            Self::Cross { columns, .. } => columns.iter().flat_map(Self::columns).collect(),
        }
    }
}

/// The SQL it was written as.
impl Display for ColumnSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain { column } => write!(f, "{}", Identifier(column)),
            Self::Numeric { column } => write!(f, "NUMERIC({})", Identifier(column)),
            Self::Category { column } => write!(f, "CATEGORY_ID({})", Identifier(column)),
            Self::Hash { column, buckets } => write!(f, "CATEGORY_HASH({}, {buckets})", Identifier(column)),
            Self::Bucket { column, boundaries } => {
                write!(f, "BUCKET({}, [{}])", Identifier(column), joined(boundaries))
            }
            Self::Cross { columns, buckets: None } => write!(f, "CROSS([{}])", joined(columns)),
            Self::Cross { columns, buckets: Some(n) } => write!(f, "CROSS([{}], {n})", joined(columns)),
            Self::Sparse { column } => write!(f, "SPARSE({})", Identifier(column)),
        }
    }
}

fn joined(items: &[impl Display]) -> String {
    items.iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// A column's name as SQL, quoted unless it means the same without.
struct Identifier<'a>(&'a str);

impl Display for Identifier<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bare = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
        match self.0.chars().all(bare) && self.0.starts_with(|c: char| !c.is_ascii_digit()) {
            true => f.write_str(self.0),
            false => write!(f, "\"{}\"", self.0.replace('"', "\"\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn every_form_has_its_slot_name_and_gives_back_its_sql() {
        let column = |s: &str| s.to_string();
        let plain = |s: &str| ColumnSpec::Plain { column: column(s) };
        let forms = [
            plain("user_id"),
            plain("I1"),
            ColumnSpec::Numeric { column: column("price") },
            ColumnSpec::Category { column: column("say \"hi\"") },
            ColumnSpec::Hash { column: column("url"), buckets: 1000 },
            ColumnSpec::Bucket { column: column("age"), boundaries: vec![18.0, 30.5] },
            ColumnSpec::Cross { columns: vec![plain("a"), plain("b")], buckets: None },
            ColumnSpec::Cross {
                columns: vec![plain("a"), ColumnSpec::Bucket { column: column("b"), boundaries: vec![0.0] }],
                buckets: Some(4096),
            },
            ColumnSpec::Sparse { column: column("features") },
        ];
        let lines: String =
            forms.iter().map(|c| format!("{c}  ->  {}  reads {}\n", c.slot_name(), c.columns().join(","))).collect();
        expect![[r#"
            user_id  ->  user_id  reads user_id
            "I1"  ->  I1  reads I1
            NUMERIC(price)  ->  price  reads price
            CATEGORY_ID("say ""hi""")  ->  say "hi"  reads say "hi"
            CATEGORY_HASH(url, 1000)  ->  url%1000  reads url
            BUCKET(age, [18, 30.5])  ->  bucket(age)  reads age
            CROSS([a, b])  ->  a*b  reads a,b
            CROSS([a, BUCKET(b, [0])], 4096)  ->  a*bucket(b)%4096  reads a,b
            SPARSE(features)  ->  features  reads features
        "#]]
        .assert_eq(&lines);
    }
}
