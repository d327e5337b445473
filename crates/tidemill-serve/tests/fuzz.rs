//! The short form of the fuzz targets of this room: seeds, changed a little, over and over, the same in every run. The long
//! form is in `fuzz/`.

#[path = "../../../fuzz/rooms/mutate.rs"]
mod mutate;
#[path = "../../../fuzz/rooms/serve.rs"]
mod serve;

#[test]
fn infer_json() {
    mutate::drive(1, &serve::infer_seeds(), 20000, serve::infer_json);
}

#[test]
fn tensor() {
    mutate::drive(2, &serve::tensor_seeds(), 40000, serve::tensor);
}

#[test]
fn predict_json() {
    mutate::drive(3, &serve::predict_seeds(), 10000, serve::predict_json);
}

#[test]
fn rank_json() {
    mutate::drive(4, &serve::rank_seeds(), 10000, serve::rank_json);
}

#[test]
fn arrow_stream() {
    mutate::drive(5, &serve::arrow_seeds(), 5000, serve::arrow_stream);
}

#[test]
fn border() {
    mutate::drive(6, &serve::border_seeds(), 5000, serve::border);
}
