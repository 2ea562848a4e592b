//! What trainers save around and instead of a plain state dict.

use slimbit_interchange::checkpoint::{Tensors, Weights};
use slimbit_interchange::{ImportError, names};

use crate::torch_file::{TorchFile, View, instructions, row_major, text};
use crate::zoo;

/// A file with one tensor `weight`, whose two values are `value`, in a state dict of its own.
fn one(value: f32) -> TorchFile {
    let mut file = TorchFile::default();
    file.floats("weight", &[1, 2], &[value; 2]);
    file
}

/// A second state dict, which views the storage `key`.
fn second(key: &str) -> Vec<u8> {
    instructions(&[View {
        name: "weight".to_owned(),
        kind: "FloatStorage",
        key: key.to_owned(),
        elements: 2,
        offset: 0,
        shape: vec![1, 2],
        strides: vec![2, 1],
    }])
}

fn add_storage(file: &mut TorchFile, value: f32) -> String {
    file.storage([value; 2].into_iter().flat_map(f32::to_le_bytes).collect())
}

#[test]
fn python_objects_beside_the_weights_do_not_matter() {
    let mut file = one(3.0);
    file.nest = vec!["state_dict"];
    let string = |letters: &str| text(letters);
    file.beside = vec![
        // argparse.Namespace(lr=1), by its attributes.
        (
            "args",
            [
                &b"cargparse\nNamespace\n)\x81}"[..],
                &string("lr"),
                b"K\x01sb",
            ]
            .concat(),
        ),
        // numpy.float64(77.5): a function of a type and bytes.
        (
            "best_acc",
            [
                &b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"[..],
                &string("f8"),
                b"\x89\x88\x87R(K\x03",
                &string("<"),
                b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbC\x08\0\0\0\0\0\x60\x53\x40\x86R",
            ]
            .concat(),
        ),
        // pathlib.PosixPath("/", "x"), datetime.datetime(...), torch.Size([2]), torch.float32, defaultdict(list).
        (
            "path",
            [
                &b"cpathlib\nPosixPath\n"[..],
                &string("/"),
                &string("x"),
                b"\x86R",
            ]
            .concat(),
        ),
        (
            "when",
            b"cdatetime\ndatetime\nC\x0a\x07\xea\x01\x01\0\0\0\0\0\0\x85R".to_vec(),
        ),
        ("size", b"ctorch\nSize\n(K\x02t\x85R".to_vec()),
        ("dtype", b"ctorch\nfloat32\n".to_vec()),
        (
            "log",
            [
                &b"ccollections\ndefaultdict\nc__builtin__\nlist\n\x85R"[..],
                &string("a"),
                b"]s",
            ]
            .concat(),
        ),
        // A class with keyword arguments to `__new__`, a dictionary and a list of one's own, a function.
        ("own", b"cmy.lib\nOwn\n)}\x92".to_vec()),
        (
            "map",
            [&b"cmy.lib\nMap\n)\x81"[..], &string("k"), b"K\x01s"].concat(),
        ),
        ("list", b"cmy.lib\nList\n)\x81K\x01a".to_vec()),
        (
            "code",
            [&b"cos\nsystem\n"[..], &string("true"), b"\x85R"].concat(),
        ),
    ];
    for bytes in [file.zip(), file.legacy()] {
        let tensors = Tensors::from_bytes(&bytes).unwrap();
        assert_eq!(tensors.floats["weight"].data, [3.0; 2]);
        assert!(tensors.objects.is_empty(), "{:?}", tensors.objects);
    }
}

#[test]
fn an_object_where_the_weights_should_be_is_refused_by_name() {
    let refusal = |file: &TorchFile| match Tensors::from_bytes(&file.zip()) {
        Err(error @ ImportError::Refused { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let file = TorchFile {
        nest: vec!["other"],
        beside: vec![("model", b"cmy.nets\nNet\n)\x81".to_vec())],
        ..TorchFile::default()
    };
    let error = refusal(&file);
    assert!(
        error.contains("`my.nets.Net` is the value of `model`"),
        "{error}"
    );
    assert!(error.contains("state_dict()"), "{error}");
}

/// A tensor that is not dense matters where the network has a place for it, and only there.
#[test]
fn tensors_of_other_kinds_are_named_where_they_are_needed() {
    let mut file = one(1.0);
    let sparse = b"ctorch._utils\n_rebuild_sparse_tensor\n)R".to_vec();
    file.among = vec![
        ("fc.weight", sparse),
        ("extra", b"cmy.lib\nState\n)\x81".to_vec()),
    ];
    let read = Tensors::from_bytes(&file.zip()).unwrap();
    assert!(
        read.others["fc.weight"].contains("sparse")
            && read.others["fc.weight"].contains(".to_dense()")
    );
    assert_eq!(read.objects["extra"], "my.lib.State");

    let mut tensors = zoo::torchvision_resnet([2, 2, 2, 2], false);
    tensors
        .objects
        .insert("extra".to_owned(), "my.lib.State".to_owned());
    assert_eq!(names::guess(&tensors).unwrap(), "resnet18");
    tensors.floats.remove("layer1.0.conv1.weight");
    for kind in ["int8", "a sparse tensor; store `.to_dense()`"] {
        tensors
            .others
            .insert("layer1.0.conv1.weight".to_owned(), kind.to_owned());
        let error = names::import(&tensors, "resnet18", [224; 2])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("not floats  layer1.0.conv1.weight: {kind}")),
            "{error}"
        );
        assert!(
            error.contains("1 of another type") && error.contains("plain floats"),
            "{error}"
        );
    }
}

#[test]
fn numpy_arrays_are_weights_too() {
    // numpy.array([[1, 2], [3, 4]], "<f4"), as protocol 2 writes it: bytes as characters of Latin-1. Its second form
    // runs down the columns.
    let array = |fortran: &[u8], order: &str, values: [f32; 4]| {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        let latin: String = bytes.map(char::from).collect();
        [
            &b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85c_codecs\nencode\n"
                [..],
            &text("b"),
            &text("latin1"),
            b"\x86R\x87R(K\x01K\x02K\x02\x86cnumpy\ndtype\n",
            &text("f4"),
            b"\x89\x88\x87R(K\x03",
            &text(order),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            fortran,
            b"c_codecs\nencode\n",
            &text(&latin),
            &text("latin1"),
            b"\x86Rtb",
        ]
        .concat()
    };
    let mut file = one(0.0);
    file.among = vec![
        ("rows", array(b"\x89", "<", [1.0, -2.0, 3.0, 4.5])),
        ("columns", array(b"\x88", "<", [1.0, 3.0, -2.0, 4.5])),
        ("swapped", array(b"\x89", ">", [1.0; 4])),
    ];
    let tensors = Tensors::from_bytes(&file.zip()).unwrap();
    for name in ["rows", "columns"] {
        assert_eq!(tensors.floats[name].shape, [2, 2]);
        assert_eq!(tensors.floats[name].data, [1.0, -2.0, 3.0, 4.5], "{name}");
    }
    assert!(tensors.others["swapped"].contains("little-endian"));
}

#[test]
fn of_model_and_average_one_is_taken_and_named() {
    let mut file = one(1.0);
    let average = add_storage(&mut file, 2.0);
    file.nest = vec!["state_dict"];
    file.beside = vec![("state_dict_ema", second(&average))];
    let read = |file: &TorchFile, weights| Tensors::from_bytes_with(&file.zip(), weights).unwrap();
    let value = |tensors: &Tensors| tensors.floats["weight"].data[0];
    for (weights, taken, other) in [
        (Weights::Auto, 1.0, "--weights ema"),
        (Weights::Model, 1.0, "--weights ema"),
        (Weights::Average, 2.0, "--weights model"),
    ] {
        let tensors = read(&file, weights);
        assert_eq!(value(&tensors), taken, "{weights:?}");
        assert!(tensors.notes[0].contains("state_dict_ema") && tensors.notes[0].contains(other));
    }
    // Only an average.
    let mut file = one(1.0);
    file.nest = vec!["model_ema"];
    let tensors = read(&file, Weights::Auto);
    assert!(
        tensors.averaged && tensors.notes[0].contains("only ones"),
        "{:?}",
        tensors.notes
    );
    // Self-distillation deploys the teacher.
    let mut file = one(1.0);
    let student = add_storage(&mut file, 3.0);
    file.nest = vec!["teacher"];
    file.beside = vec![("student", second(&student))];
    assert_eq!(value(&read(&file, Weights::Auto)), 1.0);
    assert_eq!(value(&read(&file, Weights::Model)), 3.0);
    // An optimiser's moments are no weights.
    let mut file = one(1.0);
    let moments = add_storage(&mut file, 4.0);
    file.nest = vec!["weights"];
    file.beside = vec![("optimizer", second(&moments))];
    let tensors = read(&file, Weights::Auto);
    assert_eq!((value(&tensors), tensors.floats.len()), (1.0, 1));
}

/// `torch.save(model)`: the attributes of a module hold its tensors, and its code is never needed.
#[test]
fn a_whole_pickled_module_gives_its_tensors() {
    let mut file = TorchFile::default();
    file.floats("weight", &[1, 2], &[5.0; 2]);
    let tensors = instructions(&file.views);
    let module = |parameters: &[u8], children: &[u8]| {
        [
            &b"cmy.nets\nNet\n)\x81}("[..],
            &text("training"),
            b"\x89",
            &text("_parameters"),
            parameters,
            &text("_buffers"),
            b"}",
            &text("_modules"),
            children,
            b"ub",
        ]
        .concat()
    };
    let inner = module(&tensors, b"}");
    let outer = module(b"}", &[&b"}"[..], &text("conv1"), &inner, b"s"].concat());
    file.views.clear();
    file.nest = vec!["unused"];
    file.beside = vec![("model", outer)];
    let tensors = Tensors::from_bytes(&file.zip()).unwrap();
    assert_eq!(tensors.floats["conv1.weight"].data, [5.0; 2]);
    assert!(
        tensors.notes[0].contains("`my.nets.Net`"),
        "{:?}",
        tensors.notes
    );
}

/// ResNet-18's tensors under other names.
fn renamed(rename: impl Fn(&str) -> Option<String>) -> Tensors {
    let mut tensors = zoo::torchvision_resnet([2, 2, 2, 2], false);
    let floats = std::mem::take(&mut tensors.floats).into_iter();
    tensors.floats = floats
        .filter_map(|(name, array)| Some((rename(&name)?, array)))
        .collect();
    let others = std::mem::take(&mut tensors.others).into_iter();
    tensors.others = others
        .filter_map(|(name, kind)| Some((rename(&name)?, kind)))
        .collect();
    tensors
}

#[test]
fn a_network_is_found_below_any_prefix() {
    for prefix in [
        "model.",
        "backbone.",
        "module.encoder_q.",
        "_orig_mod.",
        "module._orig_mod.backbone.",
        "student.module.encoder.",
    ] {
        let tensors = renamed(|name| Some(format!("{prefix}{name}")));
        assert_eq!(names::guess(&tensors).unwrap(), "resnet18", "{prefix}");
        let imported = names::import(&tensors, "resnet18", [224; 2]).unwrap();
        assert_eq!(imported.network.graph.outputs().len(), 2, "{prefix}");
        assert!(imported.left_out.is_empty(), "{prefix}");
    }
    // Wrappers in the middle, of some modules only.
    let tensors = renamed(|name| Some(name.replace("layer2.", "layer2._orig_mod.")));
    assert_eq!(names::guess(&tensors).unwrap(), "resnet18");
    // The children of a ResNet in a Sequential, without its classifier.
    const CHILDREN: [&str; 8] = [
        "conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4",
    ];
    let tensors = renamed(|name| {
        let (child, rest) = name.split_once('.')?;
        let place = CHILDREN.iter().position(|known| *known == child)?;
        Some(format!("backbone.{place}.{rest}"))
    });
    assert_eq!(names::guess(&tensors).unwrap(), "resnet18");
}

#[test]
fn counters_of_any_type_are_ignored() {
    let mut tensors = renamed(|name| Some(format!("module.{name}")));
    let one = slimbit_graph::Array {
        shape: vec![],
        data: vec![7.0],
    };
    for name in std::mem::take(&mut tensors.others).into_keys() {
        tensors.floats.insert(name, one.clone());
    }
    tensors
        .others
        .insert("n_averaged".to_owned(), "int64".to_owned());
    let imported = names::import(&tensors, "resnet18", [224; 2]).unwrap();
    assert!(imported.left_out.is_empty(), "{:?}", imported.left_out);
}

fn moco() -> Tensors {
    let base = renamed(|name| (!name.starts_with("fc.")).then(|| name.to_owned()));
    let mut tensors = renamed(|_| None);
    for (name, array) in &base.floats {
        let mut slow = array.clone();
        slow.data.iter_mut().for_each(|value| *value *= 0.5);
        tensors
            .floats
            .insert(format!("encoder_q.{name}"), array.clone());
        tensors.floats.insert(format!("encoder_k.{name}"), slow);
    }
    let square = slimbit_graph::Array {
        shape: vec![512, 512],
        data: vec![0.0; 512 * 512],
    };
    for encoder in ["encoder_q", "encoder_k"] {
        for layer in ["fc.0.weight", "fc.2.weight"] {
            tensors
                .floats
                .insert(format!("{encoder}.{layer}"), square.clone());
        }
    }
    tensors.floats.insert("queue".to_owned(), square);
    tensors
        .others
        .insert("queue_ptr".to_owned(), "int64".to_owned());
    tensors
}

#[test]
fn heads_queues_and_momentum_encoders_are_left_out_and_named() {
    let mut tensors = moco();
    assert_eq!(names::guess(&tensors).unwrap(), "resnet18");
    for (weights, stem, prefix) in [
        (Weights::Auto, 0.25, "encoder_q."),
        (Weights::Average, 0.125, "encoder_k."),
    ] {
        tensors.weights = weights;
        let imported = names::import(&tensors, "resnet18", [224; 2]).unwrap();
        assert_eq!(
            imported
                .network
                .params
                .get("stem.conv.weight")
                .unwrap()
                .data[0],
            stem
        );
        assert_eq!(
            imported.network.graph.outputs().len(),
            1,
            "no projection is a classifier"
        );
        let notes = imported.notes.join("\n");
        for part in [prefix, "--weights", "fc.0", "queue (1 tensor)"] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
        assert!(imported.left_out.contains(&"queue".to_owned()));
    }
    let mut plain = zoo::torchvision_resnet([2, 2, 2, 2], false);
    plain.weights = Weights::Average;
    let error = names::import(&plain, "resnet18", [224; 2])
        .unwrap_err()
        .to_string();
    assert!(error.contains("no average"), "{error}");
}

#[test]
fn a_single_linear_layer_behind_the_backbone_is_the_classifier() {
    let tensors = renamed(|name| Some(name.replace("fc.", "fc.1.")));
    let imported = names::import(&tensors, "resnet18", [224; 2]).unwrap();
    assert_eq!(imported.network.graph.outputs().len(), 2);
    assert!(imported.notes[0].contains("`fc.1`"), "{:?}", imported.notes);
    let tensors = renamed(|name| match name.strip_prefix("fc.") {
        Some(part) => Some(format!("head.{part}")),
        None => Some(format!("backbone.{name}")),
    });
    let imported = names::import(&tensors, "resnet18", [224; 2]).unwrap();
    assert_eq!(imported.network.graph.outputs().len(), 2);
    assert!(imported.notes[0].contains("`head`"), "{:?}", imported.notes);
    assert!(imported.left_out.is_empty());
}

#[test]
fn two_networks_of_one_kind_are_told_apart_by_their_prefix() {
    let mut tensors = renamed(|name| Some(format!("left.{name}")));
    let right = renamed(|name| Some(format!("right.{name}")));
    let same = right.floats.clone();
    tensors.floats.extend(same);
    // The same values twice are one network.
    assert!(names::import(&tensors, "resnet18", [224; 2]).is_ok());
    tensors.floats.get_mut("right.bn1.bias").unwrap().data[0] = 9.0;
    let error = names::import(&tensors, "resnet18", [224; 2])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`left.`, `right.`") && error.contains("--prefix"),
        "{error}"
    );
    let right = tensors.below("right").unwrap();
    let network = names::import(&right, "resnet18", [224; 2]).unwrap().network;
    assert_eq!(network.params.get("stem.bn.bias").unwrap().data[0], 9.0);
    let error = right.below("nowhere").unwrap_err().to_string();
    assert!(error.contains("`nowhere.`"), "{error}");
}

#[test]
fn what_fits_nothing_ends_with_the_way_that_works() {
    let mut tensors = renamed(|name| Some(format!("blocks.{name}\u{7}")));
    let text = names::guess(&tensors).unwrap_err().to_string();
    for part in ["torch.onnx.export(", "slimbit import model.onnx", "--arch"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains(char::is_control), "{text}");
    for number in 0..5000 {
        tensors
            .others
            .insert(format!("mask{number}"), "bool".to_owned());
    }
    let text = names::import(&tensors, "resnet50", [224; 2])
        .unwrap_err()
        .to_string();
    assert!(
        text.len() < 8000 && text.contains("more"),
        "{} bytes",
        text.len()
    );
    assert!(text.contains("torch.onnx.export("), "{text}");
    // All but one tensor: that one is named. All but a third: the architecture is.
    let mut tensors = renamed(|name| Some(name.to_owned()));
    tensors.floats.remove("layer4.1.bn2.bias");
    let text = names::guess(&tensors).unwrap_err().to_string();
    assert!(
        text.contains("not a `resnet18`") && text.contains("missing     layer4.1.bn2.bias"),
        "{text}"
    );
    tensors
        .floats
        .retain(|name, _| !name.starts_with("layer4.1"));
    let text = names::guess(&tensors).unwrap_err().to_string();
    assert!(
        text.contains("the nearest is `resnet18`, with 10 missing"),
        "{text}"
    );
    assert_eq!(row_major(&[2, 3]), [3, 1]);
}
