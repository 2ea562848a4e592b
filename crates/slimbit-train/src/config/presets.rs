use slimbit_data::{AugmentConfig, Preprocess};
use slimbit_num::WeightGrid;

use super::{
    BitsConfig, Course, DataConfig, GroupConfig, Head, HeadsConfig, Loss, ModelConfig,
    ObjectiveConfig, OptimConfig, Pace, Preset, Ranges, RunConfig, ScheduleConfig, Target,
    TrainConfig, Update, WidthsConfig,
};

impl TrainConfig {
    /// The settings of a recipe. `data.path` is left empty.
    pub fn preset(preset: Preset) -> Self {
        let combined = Self::combined();
        match preset {
            Preset::Combined => combined,
            Preset::Us3l => combined.us3l(),
            Preset::Ssql => combined.ssql(),
            Preset::SsqlSimsiam => combined.ssql().simsiam(),
        }
    }

    fn combined() -> Self {
        TrainConfig {
            preset: Preset::Combined,
            seed: 100,
            epochs: 400,
            batch: 512,
            workers: 2,
            grid: WeightGrid::Nested,
            data: DataConfig { path: "".into() },
            model: ModelConfig {
                backbone: "resnet18-cifar".to_owned(),
            },
            heads: HeadsConfig {
                hidden: 2048,
                dim: 256,
                final_norm: false,
                eight_bit_projector: false,
            },
            objective: ObjectiveConfig {
                base_loss: Loss::InfoNce,
                student_loss: Loss::Cosine,
                temperature: 0.5,
                target: Target::Ema,
                ema: 0.99,
                head: Head::Auxiliary,
                student_weight: 1.0,
                update: Update::PerStudent,
                widths: WidthsConfig {
                    min: 0.25,
                    per_step: 3,
                    sandwich: true,
                    schedule: Course::Dynamic,
                },
                bits: BitsConfig {
                    enabled: true,
                    weight: [2, 8],
                    act: [4, 8],
                    schedule: Course::Dynamic,
                    full_width: 0.5,
                    float: 0.25,
                    narrow_width: 0.5,
                    narrow_weight: 2,
                    full_width_ranges: Ranges::Measured,
                },
            },
            optim: OptimConfig {
                lr: 0.5,
                momentum: 0.9,
                weight_decay: 1e-4,
                group: GroupConfig {
                    lambda: 0.0,
                    alpha: 0.05,
                    groups: 8,
                    start: 0,
                },
            },
            schedule: ScheduleConfig {
                per: Pace::Epoch,
                warmup: 0,
            },
            run: RunConfig {
                checkpoint_every: 500,
                keep: 2,
                log_every: 1,
            },
            augment: AugmentConfig::cifar(),
            preprocess: Preprocess::cifar(),
        }
    }

    fn us3l(mut self) -> Self {
        self.preset = Preset::Us3l;
        self.objective.bits.enabled = false;
        self.optim.group.lambda = 5e-5;
        self
    }

    fn ssql(mut self) -> Self {
        self.preset = Preset::Ssql;
        self.grid = WeightGrid::MinMax;
        self.heads = HeadsConfig {
            hidden: 2048,
            dim: 2048,
            final_norm: true,
            eight_bit_projector: true,
        };
        self.objective.base_loss = Loss::Cosine;
        self.objective.head = Head::Shared;
        self.objective.update = Update::Accumulated;
        self.objective.widths.min = 1.0;
        self.objective.bits.schedule = Course::Static;
        self.optim.lr = 0.05;
        self.optim.weight_decay = 5e-4;
        self
    }

    fn simsiam(mut self) -> Self {
        self.preset = Preset::SsqlSimsiam;
        self.objective.target = Target::Online;
        self
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self::preset(Preset::Combined)
    }
}
