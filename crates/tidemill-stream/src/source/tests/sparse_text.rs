//! libsvm, libFM and VW text: good and bad inputs.

use arrow::array::AsArray;
use expect_test::{Expect, expect};
use tidemill_base::hash64;

use super::*;

fn check(name: &str, format: FileFormat, schema: &str, text: &[u8], expected: Expect) {
    let path = dir(name).join("x.txt");
    fs::write(&path, text).unwrap();
    let mut partition = open_one(&file_spec(path.to_str().unwrap(), format, false, &columns(schema))).unwrap();
    let seen = read_all(&mut *partition);
    expected.assert_eq(&listing(&seen));
    check_replay(&mut *partition, &seen);
}

#[test]
fn libsvm_rows_keep_label_and_index_as_written() {
    check(
        "libsvm",
        FileFormat::Libsvm,
        "features SPARSE, label DOUBLE",
        b"-1 3:0.5 18446744073709551615:2\n\
          # a comment\n\
          +1 0:1:0.25 1:7:1 # trailing\n\
          0\n\
          1:2 3:4\n\
          x 1:1\n\
          1 a:1\n\
          1 1:nan\n\
          1 1:inf\n\
          1 1:1e39\n\
          1 18446744073709551616:1\n\
          1 -1:1\n\
          1 7\n\
          nan 1:1\n\
          1 5:1 5:1\r\n",
        expect![[r#"
            0: [{index: 3, value: 0.5}, {index: 18446744073709551615, value: 2.0}]|-1.0
            1: [{index: 1, value: 0.25}, {index: 7, value: 1.0}]|1.0
            2: []|0.0
            3: refused: row 4: label missing
            4: refused: row 5: label 'x' is not a finite number
            5: refused: row 6: 'a:1' is not a feature index:value with a finite value
            6: refused: row 7: '1:nan' is not a feature index:value with a finite value
            7: refused: row 8: '1:inf' is not a feature index:value with a finite value
            8: refused: row 9: '1:1e39' is not a feature index:value with a finite value
            9: refused: row 10: index 18446744073709551616 of a feature exceeds 18,446,744,073,709,551,615
            10: refused: row 11: '-1:1' is not a feature index:value with a finite value
            11: refused: row 12: '7' is not a feature index:value with a finite value
            12: refused: row 13: label 'nan' is not a finite number
            13: [{index: 5, value: 1.0}, {index: 5, value: 1.0}]|1.0
        "#]],
    );
}

#[test]
fn more_features_than_the_bound_are_refused() {
    let row = |n: usize| (0..n).fold("1".to_string(), |row, i| row + &format!(" {i}:1"));
    let most = sparse::FEATURES_MAX;
    let path = dir("features-max").join("x.txt");
    fs::write(&path, format!("{}\n{}\n", row(most), row(most + 1))).unwrap();
    let spec = file_spec(path.to_str().unwrap(), FileFormat::Libsvm, false, &columns("label DOUBLE"));
    let seen = read_all(&mut *open_one(&spec).unwrap());
    assert_eq!(seen.rows, [(0, "1.0".to_string())]);
    assert_eq!(seen.refused, [(1, "row 2: more than 65,536 features in the row".to_string())]);
}

#[test]
fn vw_rows_carry_label_importance_and_tag() {
    check(
        "vw",
        FileFormat::Vw,
        "label DOUBLE, importance DOUBLE, tag STRING",
        b"1 |f a b:2\n\
          -1 2.5 |f a\n\
          0 1 'tag|f a\n\
          1 tag|f a\n\
          0 3 'tag |f a\n\
          |f a\n\
          1| a b\n\
          1 0.5 0.25 |f a\n\
          1 -1 |f a\n\
          1 a b\n\
          yes |f a\n\
          1 |f a:x\n\
          1 |f a:inf\n\
          1 |f:nan a\n\
          1 |f:1e30 a:1e30\n\
          1:0.5 2:0.1 |f a\n",
        expect![[r#"
            0: 1.0|1.0|NULL
            1: -1.0|2.5|NULL
            2: 0.0|1.0|tag
            3: 1.0|1.0|tag
            4: 0.0|3.0|tag
            5: NULL|1.0|NULL
            6: NULL|1.0|1
            7: refused: row 8: '0.25' before the features: a prediction to start from is not supported
            8: refused: row 9: importance must not be negative, got -1
            9: refused: row 10: no '|' before the features
            10: refused: row 11: label 'yes' is not a finite number
            11: refused: row 12: 'a:x' is not a feature name:value with a finite value
            12: refused: row 13: 'a:inf' is not a feature name:value with a finite value
            13: refused: row 14: 'f:nan' is not a feature name:value with a finite value
            14: refused: row 15: 'a:1e30': value times the namespace's weight is out of range of FLOAT
            15: refused: row 16: label '1:0.5' is not a finite number
        "#]],
    );
}

/// A feature's index follows from its name and namespace alone, and the namespace's weight multiplies.
#[test]
fn a_vw_index_is_the_hash_of_name_and_namespace() {
    let path = dir("vw-hash").join("x.vw");
    fs::write(&path, "1 |f:2 13:0.25 a:-1 | b\n").unwrap();
    let spec = file_spec(path.to_str().unwrap(), FileFormat::Vw, false, &columns("features SPARSE"));
    let Read::Chunk(chunk) = open_one(&spec).unwrap().read().unwrap() else { panic!("no rows") };
    let entries = chunk.rows.column(0).as_list::<i32>().values().as_struct().clone();
    let index = entries.column(0).as_primitive::<arrow::datatypes::UInt64Type>();
    let value = entries.column(1).as_primitive::<arrow::datatypes::Float32Type>();
    assert_eq!(index.values().len(), 3);
    let name = |namespace: &[u8], name: &[u8]| hash64(name, hash64(namespace, 0));
    assert_eq!(index.values()[..], [name(b"f", b"13"), name(b"f", b"a"), name(b"", b"b")]);
    assert_eq!(value.values()[..], [0.5, -2.0, 1.0]);
}

#[test]
fn a_column_the_format_does_not_have_is_refused() {
    let path = dir("sparse-columns").join("x.txt");
    fs::write(&path, "").unwrap();
    let open = |format, schema| {
        let spec = file_spec(path.to_str().unwrap(), format, false, &columns(schema));
        open_one(&spec).err().unwrap().message().to_string()
    };
    assert_eq!(
        open(FileFormat::Libsvm, "label DOUBLE, tag STRING"),
        "source clicks: column 'tag': format 'libsvm' has the columns label DOUBLE, features SPARSE"
    );
    assert_eq!(
        open(FileFormat::Vw, "label BIGINT"),
        "source clicks: column 'label': format 'vw' has the columns label DOUBLE, features SPARSE, importance DOUBLE, tag STRING"
    );
}
