//! Where the power comes from, by `/sys/class/power_supply` (sysfs-class-power in the kernel's documentation).

use protocol::conditions::Power;
use std::fs;
use std::path::Path;

/// On battery is a device with a battery of its own that discharges while nothing else is plugged in.
pub(super) fn source(sys: &Path) -> Power {
    let Ok(supplies) = fs::read_dir(sys.join("class/power_supply")) else { return Power::Mains };
    let mut discharging = false;
    for supply in supplies.flatten() {
        let says = |name: &str| {
            let text = fs::read_to_string(supply.path().join(name)).unwrap_or_default();
            text.trim().to_owned()
        };
        match says("type").as_str() {
            // That of a mouse or a headset says nothing of the device.
            "Battery" if says("scope") != "Device" => discharging |= says("status") == "Discharging",
            "Battery" => {}
            // Mains, USB and others.
            _ if says("online") == "1" => return Power::Mains,
            _ => {}
        }
    }
    if discharging { Power::Battery } else { Power::Mains }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these supplies: name, type, and one more file.
    #[allow(clippy::type_complexity)]
    fn machine(supplies: &[(&str, &str, &[(&str, &str)])]) -> Power {
        let sys = tempfile::tempdir().expect("directory");
        for (name, kind, files) in supplies {
            let place = sys.path().join("class/power_supply").join(name);
            fs::create_dir_all(&place).expect("directory");
            for (file, text) in files.iter().chain([&("type", *kind)]) {
                fs::write(place.join(file), format!("{text}\n")).expect("file");
            }
        }
        source(sys.path())
    }

    #[test]
    fn only_a_battery_of_its_own_that_empties_is_battery() {
        let discharging: (&str, &str, &[(&str, &str)]) = ("BAT0", "Battery", &[("status", "Discharging")]);
        assert_eq!(machine(&[]), Power::Mains);
        assert_eq!(machine(&[discharging]), Power::Battery);
        assert_eq!(machine(&[("AC", "Mains", &[("online", "0")]), discharging]), Power::Battery);
        // Two batteries: one is plugged in while the other says that it empties.
        assert_eq!(machine(&[("AC", "Mains", &[("online", "1")]), discharging]), Power::Mains);
        assert_eq!(machine(&[discharging, ("ucsi", "USB", &[("online", "1")])]), Power::Mains);
        assert_eq!(machine(&[("BAT0", "Battery", &[("status", "Full")])]), Power::Mains);
        let mouse: &[(&str, &str)] = &[("status", "Discharging"), ("scope", "Device")];
        assert_eq!(machine(&[("hidpp_battery_0", "Battery", mouse)]), Power::Mains);
    }
}
