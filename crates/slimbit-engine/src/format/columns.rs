use slimbit_graph::{Point, Stage};
use slimbit_num::{ActQuant, AddRequant, Clip, Interval, Requant, Table};

use crate::form::Form;
use crate::layout::Layout;
use crate::{
    AddTruth, Arithmetic, ChannelRequant, InputCodes, OutputQuant, PointModel, StageModel,
};

/// Element types of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    U8,
    I8,
    I32,
    I64,
    F32,
    F64,
}

impl Kind {
    /// The name in a safetensors header.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::I32 => "I32",
            Self::I64 => "I64",
            Self::F32 => "F32",
            Self::F64 => "F64",
        }
    }

    /// Bytes per element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }
}

/// A number of the format: little-endian bytes of one [`Kind`].
pub(crate) trait Number: Copy {
    const KIND: Kind;
    fn push(self, bytes: &mut Vec<u8>);
    /// `bytes` has [`Kind::size`] bytes.
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! numbers {
    ($($number:ty => $kind:ident),*) => {$(
        impl Number for $number {
            const KIND: Kind = Kind::$kind;
            fn push(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("the reader cuts whole elements"))
            }
        }
    )*};
}

numbers!(u8 => U8, i32 => I32, i64 => I64, f32 => F32, f64 => F64);

/// Hands every tensor of a point to a writer, or fills it from a reader: one list of names for
/// both directions.
pub(crate) trait Columns {
    type Error;
    /// A tensor of `rows` rows of `width` elements; a single column is one-dimensional.
    fn column<T: Number>(
        &mut self,
        name: &str,
        rows: usize,
        width: usize,
        values: &mut Vec<T>,
    ) -> Result<(), Self::Error>;
}

/// One point as the file has it: a column per field, over its stages, rescalings, sums and tables.
#[derive(Default)]
pub(crate) struct PointColumns {
    stage_scale: Vec<f32>,
    stage_zero_point: Vec<i32>,
    stage_bits: Vec<u8>,
    stage_clip: Vec<i32>,
    stage_rows: Vec<i32>,
    requant_m: Vec<i32>,
    requant_c: Vec<i64>,
    requant_k: Vec<u8>,
    requant_acc: Vec<i32>,
    requant_a: Vec<f32>,
    requant_b: Vec<f64>,
    add_m: Vec<i32>,
    add_c: Vec<i64>,
    add_k: Vec<u8>,
    add_slopes: Vec<f32>,
    add_offset: Vec<f64>,
    tables: Vec<u8>,
}

impl PointColumns {
    /// Visits every tensor of the point, for a graph whose stages have these forms.
    pub(crate) fn visit<C: Columns>(
        &mut self,
        forms: &[Form],
        columns: &mut C,
    ) -> Result<(), C::Error> {
        let stages = forms.len();
        let rows: usize = forms.iter().map(|form| form.rows()).sum();
        let adds = forms.iter().filter(|form| **form == Form::Add).count();
        let tables: usize = forms.iter().map(|form| form.tables()).sum();
        columns.column("stage.scale", stages, 1, &mut self.stage_scale)?;
        columns.column("stage.zero_point", stages, 1, &mut self.stage_zero_point)?;
        columns.column("stage.bits", stages, 1, &mut self.stage_bits)?;
        columns.column("stage.clip", stages, 2, &mut self.stage_clip)?;
        columns.column("stage.rows", stages, 3, &mut self.stage_rows)?;
        columns.column("requant.m", rows, 1, &mut self.requant_m)?;
        columns.column("requant.c", rows, 1, &mut self.requant_c)?;
        columns.column("requant.k", rows, 1, &mut self.requant_k)?;
        columns.column("requant.acc", rows, 2, &mut self.requant_acc)?;
        columns.column("requant.a", rows, 1, &mut self.requant_a)?;
        columns.column("requant.b", rows, 1, &mut self.requant_b)?;
        columns.column("add.m", adds, 2, &mut self.add_m)?;
        columns.column("add.c", adds, 1, &mut self.add_c)?;
        columns.column("add.k", adds, 1, &mut self.add_k)?;
        columns.column("add.slopes", adds, 2, &mut self.add_slopes)?;
        columns.column("add.offset", adds, 1, &mut self.add_offset)?;
        columns.column("tables", tables, 256, &mut self.tables)
    }

    /// The columns of a checked point.
    pub(crate) fn of(point: &PointModel) -> Self {
        let mut columns = Self::default();
        for stage in &point.stages {
            columns.push(stage);
        }
        columns
    }

    fn push(&mut self, stage: &StageModel) {
        let (scale, zero_point) = (stage.output.scale(), stage.output.zero_point());
        self.stage_scale.push(scale);
        self.stage_zero_point.push(zero_point);
        self.stage_bits.push(match stage.output {
            OutputQuant::Codes(quant) => quant.bits,
            OutputQuant::Wide { .. } => 0,
        });
        let mut clipped = Clip { lo: 0, hi: 0 };
        let [mut rescalings, mut sums, mut tabled] = [0; 3];
        match &stage.arithmetic {
            Arithmetic::Input | Arithmetic::Copy => {}
            Arithmetic::Channels { channels, clip } => {
                channels.iter().for_each(|row| self.push_requant(row));
                (clipped, rescalings) = (*clip, channels.len());
            }
            Arithmetic::Pool { requant, clip } => {
                self.push_requant(requant);
                (clipped, rescalings) = (*clip, 1);
            }
            Arithmetic::Add {
                truth,
                requant,
                clip,
            } => {
                self.add_m.extend([requant.ma, requant.mb]);
                self.add_c.push(requant.c);
                self.add_k.push(requant.k);
                self.add_slopes.extend([truth.a, truth.b]);
                self.add_offset.push(truth.c);
                (clipped, sums) = (*clip, 1);
            }
            Arithmetic::Tables(tables) => {
                self.tables.extend(tables.iter().flat_map(|table| table.0));
                tabled = tables.len();
            }
        }
        self.stage_clip.extend([clipped.lo, clipped.hi]);
        let rows = [rescalings, sums, tabled].map(|rows| rows as i32);
        self.stage_rows.extend(rows);
    }

    fn push_requant(&mut self, row: &ChannelRequant) {
        self.requant_m.push(row.requant.m);
        self.requant_c.push(row.requant.c);
        self.requant_k.push(row.requant.k);
        self.requant_acc
            .extend([row.acc.lo as i32, row.acc.hi as i32]);
        self.requant_a.push(row.a);
        self.requant_b.push(row.b);
    }

    /// The point whose columns these are; every column has the length that `visit` asks for.
    ///
    /// # Errors
    /// The index of a stage, and what its columns say that it cannot be.
    pub(crate) fn point(
        &self,
        point: Point,
        forms: &[Form],
    ) -> Result<PointModel, (usize, String)> {
        let (mut rows, mut adds, mut tables) = (0, 0, 0);
        let mut stages = Vec::with_capacity(forms.len());
        for (index, &form) in forms.iter().enumerate() {
            let clip = Clip {
                lo: self.stage_clip[2 * index],
                hi: self.stage_clip[2 * index + 1],
            };
            let arithmetic = match form {
                Form::Input => Arithmetic::Input,
                Form::Copy => Arithmetic::Copy,
                Form::Channels(n) => {
                    let channels = (rows..rows + n).map(|row| self.requant(row)).collect();
                    rows += n;
                    Arithmetic::Channels { channels, clip }
                }
                Form::Pool => {
                    let requant = self.requant(rows);
                    rows += 1;
                    Arithmetic::Pool { requant, clip }
                }
                Form::Add => {
                    adds += 1;
                    self.add(adds - 1, clip)
                }
                Form::Tables(n) => {
                    let table = |t: usize| {
                        let codes = &self.tables[256 * t..256 * (t + 1)];
                        Table(codes.try_into().expect("a table has 256 codes"))
                    };
                    let made = (tables..tables + n).map(table).collect();
                    tables += n;
                    Arithmetic::Tables(made)
                }
            };
            let taken = [form.rows(), usize::from(form == Form::Add), form.tables()];
            let taken = taken.map(|rows| rows as i32);
            let stored = &self.stage_rows[3 * index..3 * (index + 1)];
            if stored != taken {
                let what = "its numbers of rescalings, sums and tables are not those of its kind";
                return Err((index, format!("{what}: {stored:?} instead of {taken:?}")));
            }
            let clipless = !matches!(form, Form::Channels(_) | Form::Pool | Form::Add);
            if clipless && clip != (Clip { lo: 0, hi: 0 }) {
                let Clip { lo, hi } = clip;
                return Err((
                    index,
                    format!("clips to [{lo}, {hi}] where nothing is clipped"),
                ));
            }
            let output = self.output(index).map_err(|what| (index, what))?;
            stages.push(StageModel { output, arithmetic });
        }
        Ok(PointModel { point, stages })
    }

    fn requant(&self, row: usize) -> ChannelRequant {
        ChannelRequant {
            a: self.requant_a[row],
            b: self.requant_b[row],
            requant: Requant {
                m: self.requant_m[row],
                c: self.requant_c[row],
                k: self.requant_k[row],
            },
            acc: Interval {
                lo: self.requant_acc[2 * row].into(),
                hi: self.requant_acc[2 * row + 1].into(),
            },
        }
    }

    fn add(&self, row: usize, clip: Clip) -> Arithmetic {
        Arithmetic::Add {
            truth: AddTruth {
                a: self.add_slopes[2 * row],
                b: self.add_slopes[2 * row + 1],
                c: self.add_offset[row],
            },
            requant: AddRequant {
                ma: self.add_m[2 * row],
                mb: self.add_m[2 * row + 1],
                c: self.add_c[row],
                k: self.add_k[row],
            },
            clip,
        }
    }

    fn output(&self, index: usize) -> Result<OutputQuant, String> {
        let (scale, zero_point) = (self.stage_scale[index], self.stage_zero_point[index]);
        let bits = self.stage_bits[index];
        if bits == 0 {
            return Ok(OutputQuant::Wide { scale, zero_point });
        }
        let code = u8::try_from(zero_point).map_err(|_| format!("zero point {zero_point}"))?;
        Ok(OutputQuant::Codes(ActQuant {
            scale,
            zero_point: code,
            bits,
        }))
    }
}

/// The input description as the file has it.
#[derive(Default)]
pub(crate) struct InputColumns {
    mean: Vec<f32>,
    std: Vec<f32>,
    scale: Vec<f32>,
    zero_point: Vec<u8>,
    tables: Vec<u8>,
}

impl InputColumns {
    /// Visits every tensor of the input description.
    pub(crate) fn visit<C: Columns>(
        &mut self,
        channels: usize,
        columns: &mut C,
    ) -> Result<(), C::Error> {
        columns.column("mean", channels, 1, &mut self.mean)?;
        columns.column("std", channels, 1, &mut self.std)?;
        columns.column("scale", 1, 1, &mut self.scale)?;
        columns.column("zero_point", 1, 1, &mut self.zero_point)?;
        columns.column("tables", channels, 256, &mut self.tables)
    }

    pub(crate) fn of(input: &InputCodes) -> Self {
        Self {
            mean: input.mean.clone(),
            std: input.std.clone(),
            scale: vec![input.quant.scale],
            zero_point: vec![input.quant.zero_point],
            tables: input.tables.iter().flat_map(|table| table.0).collect(),
        }
    }

    pub(crate) fn input(self) -> InputCodes {
        let (tables, _) = self.tables.as_chunks::<256>();
        InputCodes {
            tables: tables.iter().map(|codes| Table(*codes)).collect(),
            quant: ActQuant {
                scale: self.scale[0],
                zero_point: self.zero_point[0],
                bits: 8,
            },
            mean: self.mean,
            std: self.std,
        }
    }
}

/// The form of every stage.
pub(crate) fn forms(stages: &[Stage], layouts: &[Layout]) -> Vec<Form> {
    stages
        .iter()
        .zip(layouts)
        .map(|(stage, &layout)| Form::of(stage, layout))
        .collect()
}
