#[derive(Default, Debug)]
pub(crate) struct PlanCache;
