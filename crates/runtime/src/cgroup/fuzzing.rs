//! What reads limits without looking at a group, for [`crate::fuzzing`].

use super::devices::Policy;
use super::limits::Limits;
use super::{CgroupError, Layout, device_program, unit};
use crate::spec::Resources;

/// Reads limits and tells what comes of each part.
pub(crate) fn read(
    resources: &Resources,
    layout: &Layout,
    tell: &mut dyn FnMut(Result<(), CgroupError>),
) {
    for is_update in [false, true] {
        tell(Limits::check(resources, layout, is_update).map(|limits| {
            for is_v2 in [false, true] {
                unit::limit_properties(&limits, is_v2);
            }
        }));
    }
    tell(Policy::new(&resources.devices).map(|policy| {
        device_program::write(&policy);
        let _ = policy.exceptions();
    }));
}
