//! What gRPC means by its status codes, and by the codes of HTTP that stand for them.

use std::borrow::Cow;

/// A status code (`grpc/doc/statuscodes.md`); those from 17 have no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GrpcStatus(u32);

/// The names, in the order of the codes.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl GrpcStatus {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const CANCELLED: Self = Self(1);
    pub(crate) const UNKNOWN: Self = Self(2);
    pub(crate) const DEADLINE_EXCEEDED: Self = Self(4);
    pub(crate) const PERMISSION_DENIED: Self = Self(7);
    pub(crate) const RESOURCE_EXHAUSTED: Self = Self(8);
    pub(crate) const UNIMPLEMENTED: Self = Self(12);
    pub(crate) const INTERNAL: Self = Self(13);
    pub(crate) const UNAVAILABLE: Self = Self(14);
    pub(crate) const DATA_LOSS: Self = Self(15);
    pub(crate) const UNAUTHENTICATED: Self = Self(16);

    /// The value of a `grpc-status` field: digits (`grpc/doc/PROTOCOL-HTTP2.md`, "Responses").
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let digits = std::str::from_utf8(value).ok()?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok().map(Self)).flatten()
    }

    /// What an HTTP status stands for, where no gRPC status came
    /// (`grpc/doc/http-grpc-status-mapping.md`); `None` for 200, which stands for nothing, and 0.
    pub(crate) fn of_http(status: u16) -> Option<Self> {
        match status {
            0 | 200 => None,
            400 => Some(Self::INTERNAL),
            401 => Some(Self::UNAUTHENTICATED),
            403 => Some(Self::PERMISSION_DENIED),
            404 => Some(Self::UNIMPLEMENTED),
            429 | 502..=504 => Some(Self::UNAVAILABLE),
            _ => Some(Self::UNKNOWN),
        }
    }

    /// What the error code of a `RST_STREAM` frame (RFC 9113 §7) stands for
    /// (`grpc/doc/PROTOCOL-HTTP2.md`, "Errors").
    pub(crate) fn of_reset(error: u16) -> Option<Self> {
        match error {
            // NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT,
            // FRAME_SIZE_ERROR, COMPRESSION_ERROR, CONNECT_ERROR.
            0..=4 | 6 | 9 | 10 => Some(Self::INTERNAL),
            // REFUSED_STREAM.
            7 => Some(Self::UNAVAILABLE),
            // CANCEL.
            8 => Some(Self::CANCELLED),
            // ENHANCE_YOUR_CALM.
            11 => Some(Self::RESOURCE_EXHAUSTED),
            // INADEQUATE_SECURITY.
            12 => Some(Self::PERMISSION_DENIED),
            // STREAM_CLOSED and all later ones have no meaning there.
            _ => None,
        }
    }

    /// The value of `rpc.response.status_code`: the code's name, or its number if it has none.
    pub(crate) fn name(self) -> Cow<'static, str> {
        match NAMES.get(self.0 as usize) {
            Some(&name) => name.into(),
            None => self.0.to_string().into(),
        }
    }

    /// Whether a server's span with this status is an error
    /// (semantic conventions for gRPC, `rpc.response.status_code`).
    pub(crate) fn is_server_error(self) -> bool {
        matches!(
            self,
            Self::UNKNOWN
                | Self::DEADLINE_EXCEEDED
                | Self::UNIMPLEMENTED
                | Self::INTERNAL
                | Self::UNAVAILABLE
                | Self::DATA_LOSS
        )
    }
}

/// Whether a content type is that of gRPC over HTTP/2: `application/grpc`, maybe with a suffix
/// or parameters (`grpc/doc/PROTOCOL-HTTP2.md`, "Requests"). That of gRPC-Web begins with the same
/// letters, and is another protocol.
pub(crate) fn is_content_type(value: &[u8]) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    value.split_at_checked(TYPE.len()).is_some_and(|(front, rest)| {
        front.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_digits_and_has_its_canonical_name() {
        let name = |value: &[u8]| GrpcStatus::parse(value).map(|status| status.name().into_owned());
        assert_eq!(name(b"0").as_deref(), Some("OK"));
        assert_eq!(name(b"5").as_deref(), Some("NOT_FOUND"));
        assert_eq!(name(b"16").as_deref(), Some("UNAUTHENTICATED"));
        assert_eq!(name(b"17").as_deref(), Some("17"));
        for value in [&b""[..], b"+1", b"-1", b"OK", b" 0", b"99999999999", b"\xff"] {
            assert_eq!(name(value), None, "{value:?}");
        }
    }

    #[test]
    fn names_and_constants_agree() {
        let named = [
            (GrpcStatus::OK, "OK"),
            (GrpcStatus::CANCELLED, "CANCELLED"),
            (GrpcStatus::UNKNOWN, "UNKNOWN"),
            (GrpcStatus::DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
            (GrpcStatus::PERMISSION_DENIED, "PERMISSION_DENIED"),
            (GrpcStatus::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"),
            (GrpcStatus::UNIMPLEMENTED, "UNIMPLEMENTED"),
            (GrpcStatus::INTERNAL, "INTERNAL"),
            (GrpcStatus::UNAVAILABLE, "UNAVAILABLE"),
            (GrpcStatus::DATA_LOSS, "DATA_LOSS"),
            (GrpcStatus::UNAUTHENTICATED, "UNAUTHENTICATED"),
        ];
        for (status, name) in named {
            assert_eq!(status.name(), name);
        }
    }

    #[test]
    fn six_statuses_are_errors_of_a_server() {
        let errors: Vec<u32> = (0..20).filter(|&code| GrpcStatus(code).is_server_error()).collect();
        assert_eq!(errors, [2, 4, 12, 13, 14, 15]);
    }

    #[test]
    fn codes_of_http_are_mapped_as_grpc_says() {
        assert_eq!(GrpcStatus::of_http(200), None);
        assert_eq!(GrpcStatus::of_http(404), Some(GrpcStatus::UNIMPLEMENTED));
        assert_eq!(GrpcStatus::of_http(503), Some(GrpcStatus::UNAVAILABLE));
        assert_eq!(GrpcStatus::of_http(500), Some(GrpcStatus::UNKNOWN));
        assert_eq!(GrpcStatus::of_reset(8), Some(GrpcStatus::CANCELLED));
        assert_eq!(GrpcStatus::of_reset(7), Some(GrpcStatus::UNAVAILABLE));
        assert_eq!(GrpcStatus::of_reset(2), Some(GrpcStatus::INTERNAL));
        assert_eq!(GrpcStatus::of_reset(5), None);
    }

    #[test]
    fn grpc_web_is_no_grpc() {
        for value in ["application/grpc", "application/grpc+proto", "Application/gRPC; x=y"] {
            assert!(is_content_type(value.as_bytes()), "{value}");
        }
        for value in ["application/grpc-web", "application/grpcx", "application/json", ""] {
            assert!(!is_content_type(value.as_bytes()), "{value}");
        }
    }
}
