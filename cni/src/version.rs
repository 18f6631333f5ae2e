//! Versions of the CNI specification.

use crate::error::{CniError, INCOMPATIBLE_VERSION};

/// A version whose results we write. Results of 0.3.0 to 0.4.0 are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0.
    V030,
    /// 0.3.1.
    V031,
    /// 0.4.0: CHECK.
    V040,
    /// 1.0.0.
    V100,
    /// 1.1.0: GC, STATUS, MTUs in results.
    V110,
}

/// All of them.
pub const ALL: [Version; 5] =
    [Version::V030, Version::V031, Version::V040, Version::V100, Version::V110];

impl Version {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V030 => "0.3.0",
            Self::V031 => "0.3.1",
            Self::V040 => "0.4.0",
            Self::V100 => "1.0.0",
            Self::V110 => "1.1.0",
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// Another one, or none: that means a version before 0.3.0.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        ALL.into_iter().find(|it| it.as_str() == text).ok_or_else(|| {
            let known = ALL.map(Self::as_str).join(", ");
            let message = format!("cniVersion {text:?} is not supported");
            CniError::new(INCOMPATIBLE_VERSION, message, format!("use one of {known}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_in_order() {
        for version in ALL {
            assert_eq!(Version::parse(version.as_str()), Ok(version));
        }
        assert!(ALL.is_sorted());
        let error = Version::parse("0.2.0").unwrap_err();
        assert!(error.details.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error}");
    }
}
