//! The short form of the fuzz targets of this room: seeds, changed a little, over and over, the same in every run. The long
//! form is in `fuzz/`.

#[path = "../../../fuzz/rooms/http.rs"]
mod http;
#[path = "../../../fuzz/rooms/kept.rs"]
mod kept;
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

#[test]
fn expression() {
    mutate::drive(7, &serve::expression_seeds(), 5000, serve::expression);
}

#[test]
fn grpc() {
    mutate::drive(8, &serve::grpc_seeds(), 20000, serve::grpc);
}

#[test]
fn http() {
    mutate::drive(9, &http::http_seeds(), 2000, http::http);
}

#[test]
fn jwt() {
    mutate::drive(10, &http::jwt_seeds(), 2000, http::jwt);
}

#[test]
fn frame() {
    mutate::drive(11, &kept::frame_seeds(), 20000, kept::frame);
}

#[test]
fn ask() {
    mutate::drive(12, &kept::ask_seeds(), 20000, kept::ask);
}

#[test]
fn registry() {
    mutate::drive(13, &kept::registry_seeds(), 1000, kept::registry);
}

#[test]
fn follow() {
    mutate::drive(14, &kept::follow_seeds(), 2000, kept::follow);
}
