use burn::tensor::Device;

use crate::NnError;

/// The device that `name` names. `cpu` is the only one so far.
///
/// Parameters created on `parse_device(..)?.autodiff()` are trained; those created on the device
/// itself are constants.
///
/// # Errors
/// [`NnError::Device`] for any other name.
pub fn parse_device(name: &str) -> Result<Device, NnError> {
    match name.trim().to_ascii_lowercase().as_str() {
        "cpu" => Ok(Device::flex()),
        _ => Err(NnError::Device(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_does_not_exist_is_refused() {
        assert!(!parse_device("CPU").unwrap().is_autodiff());
        let error = parse_device("cuda:7").unwrap_err().to_string();
        assert!(error.contains("cuda:7") && error.contains("cpu"), "{error}");
    }
}
