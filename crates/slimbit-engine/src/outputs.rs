use crate::plan::PlannedOutput;
use crate::{Layout, OutputQuant};

/// What one image gave.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    pub(crate) outputs: &'a [PlannedOutput],
    pub(crate) wide: &'a [i32],
}

impl<'a> Outputs<'a> {
    /// The output with this name.
    pub fn get(&self, name: &str) -> Option<WideTensor<'a>> {
        let output = self.outputs.iter().find(|output| output.name == name);
        output.map(|output| self.tensor(output))
    }

    /// Every output with its name, in the order of the graph.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, WideTensor<'a>)> {
        let (outputs, copy) = (self.outputs, *self);
        outputs
            .iter()
            .map(move |output| (output.name.as_str(), copy.tensor(output)))
    }

    fn tensor(&self, output: &PlannedOutput) -> WideTensor<'a> {
        WideTensor {
            codes: &self.wide[output.range.clone()],
            layout: output.layout,
            quant: output.quant,
        }
    }
}

/// Integers with one scale: an output.
#[derive(Clone, Copy, Debug)]
pub struct WideTensor<'a> {
    /// The integers, HWC.
    pub codes: &'a [i32],
    /// Rows, columns, channels.
    pub layout: Layout,
    /// What they mean.
    pub quant: OutputQuant,
}

impl WideTensor<'_> {
    /// The real value of one unit.
    pub fn scale(&self) -> f32 {
        self.quant.scale()
    }

    /// The integer of zero.
    pub fn zero_point(&self) -> i32 {
        self.quant.zero_point()
    }

    /// Real values, for those who go on in floats: `scale · (q − zero_point)`.
    pub fn to_f32(&self) -> Vec<f32> {
        let (scale, zero_point) = (self.scale(), self.zero_point());
        self.codes
            .iter()
            .map(|code| scale * (code - zero_point) as f32)
            .collect()
    }
}
