use slimbit_interchange::checkpoint::{Format, Tensors};
use zip::CompressionMethod;

use crate::torch_file::TorchFile;

/// Every kind of view and element that state dicts have.
pub(crate) fn varied() -> TorchFile {
    let mut file = TorchFile::default();
    file.floats("plain", &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let shared = file.storage((0..8).flat_map(|v| (v as f32).to_le_bytes()).collect());
    file.view(
        "transposed",
        "FloatStorage",
        &shared,
        8,
        0,
        &[4, 2],
        &[1, 4],
    );
    file.view("tail", "FloatStorage", &shared, 8, 5, &[3], &[1]);
    file.view("expanded", "FloatStorage", &shared, 8, 7, &[2, 2], &[0, 0]);
    let f16 = [0x3c00_u16, 0xc000].into_iter().flat_map(u16::to_le_bytes);
    let key = file.storage(f16.collect());
    file.view("half", "HalfStorage", &key, 2, 0, &[2], &[1]);
    let bf16 = [0x3f80_u16, 0xc000].into_iter().flat_map(u16::to_le_bytes);
    let key = file.storage(bf16.collect());
    file.view("brain", "BFloat16Storage", &key, 2, 0, &[2], &[1]);
    let key = file.storage(
        [1.0_f64, -2.0]
            .into_iter()
            .flat_map(f64::to_le_bytes)
            .collect(),
    );
    file.view("double", "DoubleStorage", &key, 2, 0, &[2], &[1]);
    let key = file.storage(77_i64.to_le_bytes().to_vec());
    file.view(
        "bn.num_batches_tracked",
        "LongStorage",
        &key,
        1,
        0,
        &[],
        &[],
    );
    file
}

fn check(tensors: &Tensors) {
    let get = |name: &str| {
        let array = &tensors.floats[name];
        (array.shape.clone(), array.data.clone())
    };
    assert_eq!(
        get("plain"),
        (vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    );
    let transposed = vec![0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0];
    assert_eq!(get("transposed"), (vec![4, 2], transposed));
    assert_eq!(get("tail"), (vec![3], vec![5.0, 6.0, 7.0]));
    assert_eq!(get("expanded"), (vec![2, 2], vec![7.0; 4]));
    for name in ["half", "brain", "double"] {
        assert_eq!(get(name), (vec![2], vec![1.0, -2.0]), "{name}");
    }
    assert_eq!(tensors.floats.len(), 7);
    assert_eq!(tensors.others["bn.num_batches_tracked"], "int64");
    assert_eq!(tensors.others.len(), 1);
}

#[test]
fn both_containers_of_pytorch_give_what_was_saved() {
    let zip = Tensors::from_bytes(&varied().zip()).unwrap();
    assert_eq!(zip.format, Format::TorchZip);
    check(&zip);
    let legacy = Tensors::from_bytes(&varied().legacy()).unwrap();
    assert_eq!(legacy.format, Format::TorchLegacy);
    check(&legacy);
    let deflated = varied().zip_with(CompressionMethod::Deflated);
    check(&Tensors::from_bytes(&deflated).unwrap());
}

#[test]
fn the_state_dict_is_found_in_its_nest_and_prefixes_fall_off() {
    let nests: [&[&'static str]; 4] = [
        &["state_dict"],
        &["model"],
        &["model_state"],
        &["model", "state_dict"],
    ];
    for nest in nests {
        let mut file = varied();
        file.nest = nest.to_vec();
        for view in &mut file.views {
            view.name = format!("module.{}", view.name);
        }
        check(&Tensors::from_bytes(&file.zip()).unwrap());
        check(&Tensors::from_bytes(&file.legacy()).unwrap());
    }
}

#[test]
fn a_prefix_that_some_names_lack_stays() {
    let mut file = varied();
    file.views[0].name = "module.plain".to_owned();
    let tensors = Tensors::from_bytes(&file.zip()).unwrap();
    assert!(tensors.floats.contains_key("module.plain"));
}

#[test]
fn safetensors_floats_of_every_width_are_read() {
    use safetensors::tensor::{Dtype, TensorView};
    let one = [
        ("f64", Dtype::F64, 1.0_f64.to_le_bytes().to_vec()),
        ("f32", Dtype::F32, 1.0_f32.to_le_bytes().to_vec()),
        ("f16", Dtype::F16, 0x3c00_u16.to_le_bytes().to_vec()),
        ("bf16", Dtype::BF16, 0x3f80_u16.to_le_bytes().to_vec()),
        ("count", Dtype::I64, 1_i64.to_le_bytes().to_vec()),
    ];
    let views = one
        .iter()
        .map(|(name, dtype, data)| (*name, TensorView::new(*dtype, vec![1], data).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    let tensors = Tensors::from_bytes(&bytes).unwrap();
    assert_eq!(tensors.format, Format::SafeTensors);
    assert_eq!(tensors.floats.len(), 4);
    assert!(tensors.floats.values().all(|array| array.data == [1.0]));
    assert_eq!(tensors.others["count"], "I64");
}

#[test]
fn errors_name_the_tensor_and_the_remedy() {
    let fault = |change: fn(&mut TorchFile)| {
        let mut file = varied();
        change(&mut file);
        let zip = Tensors::from_bytes(&file.zip()).unwrap_err().to_string();
        let legacy = Tensors::from_bytes(&file.legacy()).unwrap_err().to_string();
        [zip, legacy]
    };
    for text in fault(|file| file.views[1].strides = vec![1, 5]) {
        assert!(
            text.contains("`transposed`") && text.contains("element 9 of 8"),
            "{text}"
        );
    }
    for text in fault(|file| file.views[1].shape = vec![1 << 40, 1 << 40]) {
        assert!(text.contains("`transposed`"), "{text}");
    }
    for text in fault(|file| {
        file.views[3].shape = vec![1 << 30];
        file.views[3].strides = vec![0];
    }) {
        assert!(
            text.contains("`expanded`") && text.contains(".clone()"),
            "{text}"
        );
    }
    for text in fault(|file| file.views[0].key = "99".to_owned()) {
        assert!(
            text.contains("99") || text.contains("storage `0`"),
            "{text}"
        );
    }
    for text in fault(|file| file.views[0].kind = "QInt8Storage") {
        assert!(text.contains("`torch.QInt8Storage`"), "{text}");
    }
    for text in fault(|file| {
        file.views.clear();
        file.storages.clear();
    }) {
        assert!(text.contains("no tensors"), "{text}");
    }
}

#[test]
fn an_archive_that_unpacks_to_far_more_is_refused() {
    let mut file = TorchFile::default();
    file.floats("zeros", &[1 << 18], &vec![0.0; 1 << 18]);
    let text = Tensors::from_bytes(&file.zip_with(CompressionMethod::Deflated))
        .unwrap_err()
        .to_string();
    assert!(text.contains("without compression"), "{text}");
}

#[test]
fn a_shared_storage_cannot_be_multiplied_without_end() {
    let mut file = TorchFile::default();
    file.floats("0", &[1 << 12], &vec![0.5; 1 << 12]);
    for copy in 1..1000 {
        file.view(
            &copy.to_string(),
            "FloatStorage",
            "0",
            1 << 12,
            0,
            &[1 << 12],
            &[1],
        );
    }
    for bytes in [file.zip(), file.legacy()] {
        let text = Tensors::from_bytes(&bytes).unwrap_err().to_string();
        assert!(text.contains("more than the file can hold"), "{text}");
    }
}

#[test]
fn other_files_are_told_apart() {
    for bytes in [
        &b""[..],
        b"\x89PNG\r\n\x1a\n",
        b"\x80\x04K\x01.",
        b"PK\x03\x04",
    ] {
        let text = Tensors::from_bytes(bytes).unwrap_err().to_string();
        assert!(
            text.contains("archive") || text.contains("neither safetensors"),
            "{text}"
        );
    }
}
