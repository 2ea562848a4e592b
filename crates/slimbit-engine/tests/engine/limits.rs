//! Memory: what a reader takes, and what a network may take.

use std::collections::BTreeMap;
use std::sync::Arc;

use slimbit_engine::{
    Arithmetic, EngineError, InputCodes, Model, OutputQuant, PointModel, Session, StageModel,
    reference,
};
use slimbit_graph::{Graph, GraphBuilder, Op, Pool};
use slimbit_num::{ActQuant, Table, WeightGrid};

use crate::corpus::seeds;
use crate::counting::peak_of_thread;
use crate::lowering::{image, points, residual_model};

/// What `docs/format.md` promises: this many times the file's bytes, and a constant.
const TIMES: usize = 16;
const CONSTANT: usize = 64 << 10;

fn within_bound(name: &str, bytes: &[u8]) {
    let file = bytes.to_vec();
    let mut outcome = Ok(());
    let peak = peak_of_thread(|| outcome = Model::from_bytes(file).map(drop));
    let bound = TIMES * bytes.len() + CONSTANT;
    assert!(
        peak <= bound,
        "{name}: {peak} for {}, {outcome:?}",
        bytes.len()
    );
}

#[test]
fn a_reader_takes_a_multiple_of_the_file_and_a_constant() {
    for (name, bytes, _) in seeds() {
        within_bound(name, &bytes);
    }
    // Many small nodes are what a header can hold most of.
    let chain = pooled(64, 2000).to_bytes();
    within_bound("chain", &chain);
    let cut = chain.len() - 64;
    within_bound("chain, cut", &chain[..cut]);
}

/// `side` x `side` pixels, flattened again and again: no weights, and few bytes whatever the side.
fn pooled(side: usize, flattened: usize) -> Model {
    let mut b = GraphBuilder::new("pooled");
    let x = b.input(1, side, side);
    let window = Pool {
        kernel: [2; 2],
        stride: [2; 2],
        padding: [0; 4],
    };
    let mut x = b.push("pool", Op::MaxPool(window), &[x]);
    for turn in 0..flattened {
        x = b.push(format!("f{turn}"), Op::Flatten, &[x]);
    }
    model(b.finish(&[("codes", x)]).unwrap())
}

fn model(graph: Graph) -> Model {
    let quant = ActQuant {
        scale: 1.0 / (255.0 * 0.25),
        zero_point: 128,
        bits: 8,
    };
    let input = InputCodes {
        tables: vec![Table(std::array::from_fn(|p| p as u8))],
        quant,
        mean: vec![128.0 / 255.0],
        std: vec![0.25],
    };
    let stages = graph.stages().unwrap();
    let stages = stages.iter().enumerate().map(|(index, _)| StageModel {
        output: OutputQuant::Codes(quant),
        arithmetic: if index == 0 {
            Arithmetic::Input
        } else {
            Arithmetic::Copy
        },
    });
    let point = PointModel {
        point: points()[0],
        stages: stages.collect(),
    };
    let points = vec![point];
    Model::new(
        graph,
        WeightGrid::Nested,
        input,
        BTreeMap::new(),
        points,
        BTreeMap::new(),
    )
    .unwrap()
}

#[test]
fn a_small_file_that_asks_for_gigabytes_is_refused_with_the_number() {
    let bytes = pooled(40_000, 0).to_bytes();
    assert!(bytes.len() < 4000, "{}", bytes.len());
    let mut refused = None;
    let peak = peak_of_thread(|| {
        let model = Model::from_bytes(&bytes[..])
            .unwrap()
            .with_memory_limit(64 << 20);
        refused = Session::new(Arc::new(model), points()[0]).err();
    });
    assert!(peak < 1 << 20, "{peak} bytes were taken");
    let error = refused.expect("2 GB do not fit 64 MiB");
    let unlimited = Model::from_bytes(&bytes[..]).unwrap();
    assert!(unlimited.session_bytes(points()[0]).unwrap() > 2_000_000_000);
    assert!(matches!(error, EngineError::MemoryLimit { needed, .. } if needed > 2_000_000_000));
    let text = error.to_string();
    assert!(
        text.contains("64.0 MiB") && text.contains("--memory"),
        "{text}"
    );
}

#[test]
fn sizes_beyond_the_address_space_are_errors() {
    for side in [1 << 15, 1 << 20] {
        let mut b = GraphBuilder::new("wide");
        let x = b.input(1, side, side);
        let graph = b.finish(&[("codes", x)]);
        let Ok(graph) = graph else { continue };
        let layouts = slimbit_engine::layouts(&graph, &graph.stages().unwrap(), points()[0].width);
        assert_eq!(layouts.is_ok(), side == 1 << 15);
    }
}

#[test]
fn every_way_to_run_keeps_to_the_limit() {
    let model = |limit: usize| {
        let bytes = residual_model().to_bytes();
        Arc::new(Model::from_bytes(bytes).unwrap().with_memory_limit(limit))
    };
    let [first, second] = [points()[0], points()[3]];
    let session = Session::new(residual_model(), first).unwrap();
    let one = session.plan().session_bytes();
    let pixels = image(&residual_model(), 1);
    let least = residual_model().session_bytes(first).unwrap();
    assert!(least <= one && least > one / 3, "{least} of {one}");

    assert!(Session::new(model(one - 1), first).is_err());
    let mut exact = Session::new(model(one), first).unwrap();
    let wanted = reference::run(&residual_model(), first, &pixels).unwrap();
    assert!(exact.run(&pixels).is_ok());
    // Traces keep every stage's integers, and a second point or thread takes memory of its own.
    assert!(matches!(
        exact.trace(&pixels),
        Err(EngineError::MemoryLimit { .. })
    ));
    assert!(matches!(
        exact.set_point(second),
        Err(EngineError::MemoryLimit { .. })
    ));
    assert_eq!(exact.point(), first);
    exact.set_threads(2).unwrap();
    let batch = pixels.repeat(4);
    assert!(matches!(
        exact.run_batch(&batch),
        Err(EngineError::MemoryLimit { .. })
    ));
    assert!(exact.run(&pixels).is_ok(), "a refusal harms nothing");

    let mut roomy = Session::new(model(64 << 20), first).unwrap();
    assert_eq!(roomy.trace(&pixels).unwrap(), wanted);
    roomy.set_threads(2).unwrap();
    assert_eq!(roomy.run_batch(&batch).unwrap().images(), 4);
    let refused = reference::run(&model(1000), first, &pixels);
    assert!(matches!(refused, Err(EngineError::MemoryLimit { .. })));
}
