use burn::tensor::{Device, FloatDType};

use crate::NnError;

/// The device that `name` names: `cpu`; with the feature `gpu` also `gpu`, the adapter that the
/// system prefers, and `gpu:N`, the `N`-th of all, from 0.
///
/// Parameters created on `parse_device(..)?.autodiff()` are trained; those created on the device
/// itself are constants.
///
/// # Errors
/// [`NnError::Device`] for any other name, and for a GPU that is not there.
pub fn parse_device(name: &str) -> Result<Device, NnError> {
    let fault = |what: String| NnError::Device {
        name: name.to_owned(),
        what,
    };
    let text = name.trim().to_ascii_lowercase();
    match text.split_once(':') {
        None if text == "cpu" => Ok(Device::flex()),
        None if text == "gpu" => gpu::preferred().map_err(fault),
        Some(("gpu", index)) => match index.parse() {
            Ok(index) => gpu::numbered(index).map_err(fault),
            Err(_) => Err(fault(format!(
                "`{index}` is not the number of an adapter; write gpu:0"
            ))),
        },
        _ => Err(fault(
            "no such device; the devices are: cpu, gpu, gpu:N".to_owned(),
        )),
    }
}

/// What a device is, for people: `cpu`, or `gpu` with the adapter's own name.
pub fn describe_device(device: &Device) -> String {
    gpu::adapter(device).map_or_else(|| "cpu".to_owned(), |adapter| format!("gpu ({adapter})"))
}

/// Whether a device has 16-bit floats of its own, for [`Net::use_half_floats`](crate::Net::use_half_floats).
/// The CPU has not: its operators are written for `f32`.
pub fn has_half_floats(device: &Device) -> bool {
    gpu::adapter(device).is_some() && device.supports_dtype(FloatDType::F16)
}

#[cfg(feature = "gpu")]
mod gpu {
    use burn::tensor::{Device, DeviceKind, DeviceType};

    const MISSING: &str = "no adapter was found; install the driver of the graphics card, on Linux its Vulkan driver \
                           (Debian's mesa-vulkan-drivers has some, and a device in software)";

    pub(super) fn preferred() -> Result<Device, String> {
        // A device that is not there would panic at its first use.
        match all().is_empty() {
            true => Err(MISSING.to_owned()),
            false => Ok(Device::wgpu(DeviceKind::DefaultDevice)),
        }
    }

    pub(super) fn numbered(index: usize) -> Result<Device, String> {
        let mut adapters = all();
        if adapters.is_empty() {
            return Err(MISSING.to_owned());
        }
        if index < adapters.len() {
            return Ok(adapters.swap_remove(index));
        }
        let names = adapters.iter().enumerate().map(|(index, device)| {
            let name = adapter(device).unwrap_or_default();
            format!("gpu:{index} ({name})")
        });
        let names: Vec<String> = names.collect();
        Err(format!("no such adapter; there are: {}", names.join(", ")))
    }

    pub(super) fn adapter(device: &Device) -> Option<String> {
        if !crate::ops::needs_composites(device) {
            return None;
        }
        let named = device.identity().map(|identity| identity.name);
        Some(named.unwrap_or_else(|| "unnamed".to_owned()))
    }

    fn all() -> Vec<Device> {
        Device::enumerate(DeviceType::Wgpu).into_vec()
    }
}

#[cfg(not(feature = "gpu"))]
mod gpu {
    use burn::tensor::Device;

    pub(super) fn preferred() -> Result<Device, String> {
        Err("this program was built without GPUs; build it with `cargo build --release --features gpu`".to_owned())
    }

    pub(super) fn numbered(_index: usize) -> Result<Device, String> {
        preferred()
    }

    pub(super) fn adapter(_device: &Device) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_does_not_exist_is_refused() {
        let cpu = parse_device("CPU").unwrap();
        assert!(!cpu.is_autodiff());
        assert_eq!(describe_device(&cpu.autodiff()), "cpu");
        let error = parse_device("cuda:7").unwrap_err().to_string();
        assert!(error.contains("cuda:7") && error.contains("cpu"), "{error}");
        let error = parse_device("gpu:first").unwrap_err().to_string();
        assert!(error.contains("`first`"), "{error}");
    }

    #[cfg(not(feature = "gpu"))]
    #[test]
    fn a_gpu_that_was_not_built_in_says_how_to_build_it() {
        for name in ["gpu", "gpu:0"] {
            let error = parse_device(name).unwrap_err().to_string();
            assert!(error.contains("--features gpu"), "{error}");
        }
    }
}
