use std::fs;

use safetensors::SafeTensors;
use slimbit_engine::{EngineError, Model, Session, reference};

use crate::lowering::{image, points, random_model, residual_model};

#[test]
fn a_file_gives_back_the_model_and_the_same_bytes() {
    for seed in 0..12 {
        let model = random_model(seed);
        let bytes = model.to_bytes();
        let again = Model::from_bytes(bytes.clone()).unwrap();
        assert!(again == *model, "seed {seed}");
        assert_eq!(again.to_bytes(), bytes, "seed {seed}");
        let pixels = image(&model, seed);
        for point in points() {
            assert_eq!(
                reference::run(&again, point, &pixels).unwrap(),
                reference::run(&model, point, &pixels).unwrap()
            );
        }
    }
}

#[test]
fn a_mapped_file_runs_and_can_be_replaced_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.slim");
    let [first, second] = [random_model(1), random_model(2)];
    first.write(&path).unwrap();
    let mapped = std::sync::Arc::new(Model::open(&path).unwrap());
    second.write(&path).unwrap();
    assert!(*mapped == *first);
    assert!(Model::open(&path).unwrap() == *second);
    let pixels = image(&first, 5);
    let mut session = Session::new(mapped, points()[1]).unwrap();
    let expected = reference::run(&first, points()[1], &pixels).unwrap();
    assert_eq!(session.trace(&pixels).unwrap(), expected);
    let left: Vec<_> = fs::read_dir(&folder).unwrap().collect();
    assert_eq!(left.len(), 1, "a temporary file was left behind");
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.slim");
    // A folder in the way: the rename fails after everything else has succeeded.
    fs::create_dir(&path).unwrap();
    fs::write(path.join("inside"), b"kept").unwrap();
    let error = residual_model().write(&path).unwrap_err();
    assert!(matches!(error, EngineError::Io { .. }));
    assert!(error.to_string().contains("model.slim"), "{error}");
    assert_eq!(fs::read(path.join("inside")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    let nowhere = folder.path().join("absent/model.slim");
    assert!(residual_model().write(nowhere).is_err());
}

#[test]
fn the_file_is_a_safetensors_file_that_others_can_read() {
    let model = residual_model();
    let bytes = model.to_bytes();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let codes = file.tensor("codes/block.a.act").unwrap();
    assert_eq!(codes.shape(), [32, 3, 3, 16]);
    assert_eq!(codes.dtype(), safetensors::Dtype::I8);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let text = header.metadata().as_ref().unwrap();
    assert_eq!(text["format"], "slimbit");
    assert_eq!(text["created_by"], "a \"test\"\n\\");
    for (_, tensor) in file.tensors() {
        let start = tensor.data().as_ptr().addr() - bytes.as_ptr().addr();
        assert!(
            start.is_multiple_of(tensor.dtype().bitsize() / 8),
            "tensors are aligned"
        );
    }
}

#[test]
fn reserved_metadata_is_refused() {
    let model = residual_model();
    let clash = [("graph".to_owned(), "mine".to_owned())].into();
    let made = Model::new(
        model.graph().clone(),
        model.grid(),
        model.input().clone(),
        model.weights().clone(),
        model.points().to_vec(),
        clash,
    );
    assert!(made.unwrap_err().to_string().contains("`graph`"));
}
