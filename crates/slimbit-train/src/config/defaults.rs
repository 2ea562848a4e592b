use slimbit_data::{AugmentConfig, Preprocess};
use slimbit_num::WeightGrid;

use super::{
    Algorithm, BatchNorms, BitsConfig, Course, DataConfig, EmaUpdate, GroupConfig, Head,
    HeadsConfig, Init, Loss, ModelConfig, ObjectiveConfig, OptimConfig, Pace, Place, Projector,
    Ranges, RunConfig, ScheduleConfig, StudentTarget, Target, TrainConfig, Update, WatchAction,
    WatchConfig, WidthsConfig, recipes,
};

/// The combined method on CIFAR-10 (spec section 5.2), which every recipe changes. `data.path` is left empty.
impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            recipe: recipes::DEFAULT.to_owned(),
            seed: 100,
            epochs: 400,
            batch: 512,
            micro_batch: 0,
            gradient_checkpointing: false,
            mixed_precision: false,
            workers: 2,
            grid: WeightGrid::Nested,
            data: DataConfig { path: "".into() },
            model: ModelConfig {
                backbone: "resnet18-cifar".to_owned(),
                init: Init::Uniform,
                zero_init_residual: false,
                batch_norm: BatchNorms::Shared,
            },
            heads: HeadsConfig {
                projector: Projector::Mlp3,
                hidden: 2048,
                predictor_hidden: 0,
                dim: 256,
                final_norm: false,
                eight_bit_projector: false,
            },
            objective: ObjectiveConfig {
                base_loss: Loss::InfoNce,
                student_loss: Loss::Cosine,
                temperature: 0.5,
                teacher_temperature: 0.01,
                queue: 4096,
                target: Target::Ema,
                teacher: "".into(),
                ema: 0.99,
                ema_update: EmaUpdate::Iteration,
                student_target: StudentTarget::Base,
                head: Head::Auxiliary,
                student_weight: 1.0,
                map_weight: 0.0,
                maps: vec![],
                update: Update::PerStudent,
                widths: WidthsConfig {
                    min: 0.25,
                    max: 1.0,
                    list: vec![],
                    per_step: 3,
                    sandwich: true,
                    schedule: Course::Dynamic,
                },
                bits: BitsConfig {
                    enabled: true,
                    weight: [2, 8],
                    act: [4, 8],
                    schedule: Course::Dynamic,
                    first_quarter: 0,
                    place: Place::Replace,
                    full_width: 0.5,
                    float: 0.25,
                    narrow_width: 0.5,
                    narrow_weight: 2,
                    full_width_ranges: Ranges::Measured,
                    detach_scales: false,
                },
            },
            optim: OptimConfig {
                algorithm: Algorithm::Sgd,
                lr: 0.5,
                momentum: 0.9,
                weight_decay: 1e-4,
                clip: 0.0,
                trust: 1e-3,
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
                checkpoint_minutes: 5.0,
                keep: 2,
                log_every: 1,
            },
            watch: WatchConfig {
                action: WatchAction::Warn,
                window: 200,
                least_std: 0.05,
                least_rank: 0.2,
                least_dimensions: 1.5,
                lower_lr: 0.5,
                most_rollbacks: 3,
            },
            augment: AugmentConfig::cifar(),
            preprocess: Preprocess::cifar(),
        }
    }
}
