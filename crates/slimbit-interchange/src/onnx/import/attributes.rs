use super::constant::Constant;
use super::refusal::{Refusal, shown, unsupported};
use crate::onnx::proto::{AttributeProto, NodeProto};

/// Largest extent, stride, pad or kernel that is not taken for damage.
pub(super) const LARGEST: usize = 1 << 20;

/// The attributes of a node, by name and type, and the version of the operators that gives them
/// their meaning. [`check`](super::schema::check) has seen them: none is unknown or of another type.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a> {
    node: &'a NodeProto,
    pub(super) opset: i64,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(node: &'a NodeProto, opset: i64) -> Self {
        Self { node, opset }
    }

    fn get(self, name: &str) -> Option<&'a AttributeProto> {
        self.node.attribute.iter().find(|a| a.name == name)
    }

    pub(super) fn has(self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn int(self, name: &str, default: i64) -> i64 {
        self.get(name).map_or(default, |a| a.i.unwrap_or(0))
    }

    pub(super) fn float(self, name: &str) -> Option<f32> {
        self.get(name).map(|a| a.f.unwrap_or(0.0))
    }

    pub(super) fn floats(self, name: &str) -> Option<&'a [f32]> {
        self.get(name).map(|a| &a.floats[..])
    }

    pub(super) fn ints(self, name: &str) -> Option<&'a [i64]> {
        self.get(name).map(|a| &a.ints[..])
    }

    pub(super) fn text(self, name: &str) -> Option<&'a [u8]> {
        self.get(name).map(|a| a.s.as_deref().unwrap_or_default())
    }

    pub(super) fn tensor(self, name: &str) -> Result<Option<Constant>, Refusal> {
        match self.get(name).and_then(|a| a.t.as_ref()) {
            Some(tensor) => Ok(Some(Constant::read(tensor)?)),
            None => Ok(None),
        }
    }

    /// As many sizes as `default` has, each at least `least`.
    pub(super) fn sizes<const N: usize>(
        self,
        name: &str,
        default: [usize; N],
        least: usize,
    ) -> Result<[usize; N], Refusal> {
        let Some(values) = self.ints(name) else {
            return Ok(default);
        };
        let sizes: Option<Vec<usize>> = values
            .iter()
            .map(|&v| {
                usize::try_from(v)
                    .ok()
                    .filter(|v| (least..=LARGEST).contains(v))
            })
            .collect();
        match sizes.and_then(|sizes| <[usize; N]>::try_from(sizes).ok()) {
            Some(sizes) => Ok(sizes),
            None => unsupported(
                format!(
                    "`{name}` {} are not {N} sizes from {least} to {LARGEST}",
                    shown(values)
                ),
                "only windows on two-dimensional maps are supported, and only padding that adds",
            ),
        }
    }
}
