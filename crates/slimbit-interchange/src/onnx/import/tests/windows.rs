//! Windows and their borders.

use slimbit_graph::{Groups, Op, Pool};

use super::{File, IMAGE, last, ops, text};
use crate::onnx::writer::{int, ints};

#[test]
fn same_padding_puts_the_odd_row_where_it_says() {
    for (mode, padding) in [("SAME_UPPER", [0, 0, 1, 1]), ("SAME_LOWER", [1, 1, 0, 0])] {
        let attributes = vec![text("auto_pad", mode), ints("strides", &[2, 2])];
        let network = File::new(&IMAGE).conv(3, attributes).network("y");
        let Op::Conv2d(conv) = last(&network) else {
            panic!("{network:?}")
        };
        assert_eq!((conv.padding, conv.stride), (padding, [2, 2]), "{mode}");
    }
}

#[test]
fn a_border_joins_the_convolution_behind_it() {
    let network = File::new(&IMAGE)
        .longs("pads", &[0, 0, 1, 2, 0, 0, 3, 4])
        .node("Pad", "x pads", "padded", vec![])
        .floats("w", &[1, 3, 3, 3], &[1.0; 27])
        .node("Conv", "padded w", "y", vec![ints("pads", &[1, 1, 1, 1])])
        .network("y");
    assert_eq!(ops(&network), ["input", "conv2d"]);
    assert!(matches!(last(&network), Op::Conv2d(c) if c.padding == [2, 3, 4, 5]));
}

#[test]
fn repeated_edges_are_no_zeros_whatever_value_stands_beside_them() {
    let error = File::new(&IMAGE)
        .longs("pads", &[0, 0, 1, 1, 0, 0, 1, 1])
        .floats("zero", &[], &[0.0])
        .node("Pad", "x pads zero", "padded", vec![text("mode", "edge")])
        .floats("w", &[1, 3, 3, 3], &[1.0; 27])
        .node("Conv", "padded w", "y", vec![])
        .error("y");
    assert!(error.contains("Pad `padded`"), "{error}");
}

#[test]
fn zeros_before_a_maximum_count_only_where_they_cannot_win() {
    let file = |relu: bool| {
        let file = File::new(&IMAGE).longs("pads", &[0, 0, 1, 1, 0, 0, 1, 1]);
        let (file, from) = match relu {
            true => (file.node("Relu", "x", "r", vec![]), "r pads"),
            false => (file, "x pads"),
        };
        let pool = vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2])];
        file.node("Pad", from, "padded", vec![])
            .node("MaxPool", "padded", "y", pool)
    };
    let network = file(true).network("y");
    assert!(matches!(last(&network), Op::MaxPool(p) if p.padding == [1; 4]));
    let error = file(false).error("y");
    assert!(error.contains("Pad `padded`"), "{error}");
}

#[test]
fn pooling_that_rounds_up_gets_a_border_below_and_right() {
    let pool = vec![
        ints("kernel_shape", &[3, 3]),
        ints("strides", &[2, 2]),
        int("ceil_mode", 1),
    ];
    let network = File::new(&IMAGE)
        .node("MaxPool", "x", "y", pool)
        .network("y");
    assert!(matches!(last(&network), Op::MaxPool(p) if p.padding == [0, 0, 1, 1]));
}

fn average(count_include_pad: i64, kernel: usize, stride: usize, pads: &[usize; 4]) -> File {
    let attributes = vec![
        ints("kernel_shape", &[kernel; 2]),
        ints("strides", &[stride; 2]),
        ints("pads", pads),
        int("count_include_pad", count_include_pad),
    ];
    File::new(&IMAGE).node("AveragePool", "x", "y", attributes)
}

#[test]
fn an_average_that_counts_its_border_is_a_depthwise_convolution() {
    let network = average(1, 3, 2, &[1; 4]).network("y");
    let Op::Conv2d(conv) = last(&network) else {
        panic!("{network:?}")
    };
    assert_eq!(conv.groups, Groups::Depthwise);
    // The last window ends with the map.
    assert_eq!((conv.padding, conv.stride), ([1, 1, 0, 0], [2, 2]));
    assert_eq!(network.params.0["y.weight"].data, [1.0 / 9.0; 27]);
    assert!(!conv.bias);
}

#[test]
fn an_average_over_the_map_alone_needs_a_border_that_no_window_reaches() {
    let network = average(0, 2, 2, &[0, 0, 1, 1]).network("y");
    let pool = Pool {
        kernel: [2, 2],
        stride: [2, 2],
        padding: [0; 4],
    };
    assert_eq!(last(&network), &Op::AvgPool(pool));
    for pads in [[1; 4], [1, 0, 0, 0], [0, 0, 0, 1]] {
        let error = average(0, 3, 1, &pads).error("y");
        assert!(error.contains("AveragePool `y`"), "{error}");
        assert!(error.contains("count_include_pad=True"), "{error}");
    }
}
