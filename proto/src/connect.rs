//! Connect: queue pair data and fabric facts, exchanged over an authenticated TCP session before RDMA starts.
//!
//! ```text
//!  0 1  version_min of RDMA      8  4  qp_num, 24 bits       42 1  mtu code, 1..=5
//!  1 1  version_max              12 4  psn, 24 bits          43 1  port
//!  2 1  transport                16 16 gid                   44 1  max_rd_atomic
//!  3 1  control carrier          32 8  dc_key                45 1  max_dest_rd_atomic
//!  4 4  channel                  40 2  lid                   46 2  rail_idx
//! 48 2  number of facts, then each: tag 2 | len 2 | value
//! ```
//!
//! Request and reply have the same form; the reply's `version_min` equals its `version_max`: what was chosen. Facts
//! have rising tags. A tag that a side doesn't know is kept and skipped, unless its top bit says that it must be
//! understood; so facts can be added without a new version.

use crate::op::wire_enum;
use crate::wire::{DecodeError, EncodeError, Reader};

/// Bit of a fact's tag: refuse the message if the tag isn't known.
pub const FACT_CRITICAL: u16 = 0x8000;
/// Longest value of a fact, in bytes.
pub const FACT_BYTES_MAX: usize = 256;
/// Most facts in a message.
pub const FACTS_MAX: usize = 256;
const QP_NUMBER_MAX: u32 = 0xff_ffff;

wire_enum! {
    /// Which RDMA transport.
    RdmaTransport: u8, "rdma transport" {
        /// Reliable connection.
        Rc = 1, "rc";
        /// Dynamic connection of mlx5.
        Dc = 2, "dc";
    }
}

wire_enum! {
    /// What carries control messages once RDMA runs.
    ControlCarrier: u8, "control carrier" {
        /// The TCP session that carried the Connect.
        Tcp = 1, "tcp";
        /// SEND and RECV on the queue pair, signed with the keys of [`Connect::channel`].
        SendRecv = 2, "send_recv";
    }
}

wire_enum! {
    /// What a side says about its end of the fabric. Texts and numbers (8 bytes) are told apart by tag.
    #[non_exhaustive]
    FactTag: u16, "fact tag" {
        /// Type of the GID in use: 1 RoCEv1, 2 RoCEv2, 3 InfiniBand.
        GidType = 1, "gid_type";
        /// Index of the GID in use.
        GidIndex = 2, "gid_index";
        /// DSCP of what this side sends.
        Dscp = 3, "dscp";
        /// Traffic class byte of what this side sends.
        TrafficClass = 4, "traffic_class";
        /// Service level of what this side sends.
        ServiceLevel = 5, "service_level";
        /// Active MTU of the port, in bytes.
        ActiveMtu = 6, "active_mtu";
        /// Priorities with PFC, one bit each.
        PfcMask = 7, "pfc_mask";
        /// What the port trusts: 1 PCP, 2 DSCP.
        Trust = 8, "trust";
        /// Priorities with ECN, one bit each.
        EcnMask = 9, "ecn_mask";
        /// Link speed in Mb/s.
        LinkMbps = 10, "link_mbps";
        /// VLAN id; 0 is none.
        Vlan = 11, "vlan";
        /// RDMA device (text).
        Device = 12, "device";
        /// Network interface (text).
        NetDevice = 13, "net_device";
        /// Firmware version (text).
        Firmware = 14, "firmware";
    }
}

/// One side's queue pair and what it knows of its fabric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Connect<'a> {
    /// Oldest version of the RDMA part that the side speaks; in a reply the chosen one.
    pub version_min: u8,
    /// Newest version; in a reply the chosen one.
    pub version_max: u8,
    /// Which transport.
    pub transport: RdmaTransport,
    /// What carries control messages.
    pub control: ControlCarrier,
    /// The channel whose keys sign frames on the queue pair, see `session::Channels::open`.
    pub channel: u32,
    /// Number of the queue pair, or of the DC target: 24 bits.
    pub qp_num: u32,
    /// First packet sequence number, random: 24 bits.
    pub psn: u32,
    /// Address.
    pub gid: [u8; 16],
    /// Access key of the DC target; 0 for RC.
    pub dc_key: u64,
    /// Local id; 0 on Ethernet.
    pub lid: u16,
    /// Path MTU in bytes: 256, 512, 1024, 2048 or 4096.
    pub mtu: u16,
    /// Port of the device, from 1.
    pub port: u8,
    /// RDMA READs the side may have outstanding.
    pub max_rd_atomic: u8,
    /// RDMA READs the side can serve at once.
    pub max_dest_rd_atomic: u8,
    /// Which of the side's rails this is, from 0.
    pub rail_idx: u16,
    /// What it knows of its fabric.
    pub facts: Facts<'a>,
}

impl<'a> Connect<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let version_min = reader.u8("rdma version_min")?;
        let version_max = reader.u8("rdma version_max")?;
        if version_min == 0 || version_min > version_max {
            let value = u64::from(version_min);
            return Err(DecodeError::BadValue {
                field: "rdma version_min",
                value,
            });
        }
        let transport = RdmaTransport::from_wire(reader.u8("rdma transport")?)?;
        let control = ControlCarrier::from_wire(reader.u8("control carrier")?)?;
        let channel = reader.u32("channel")?;
        let qp_num = u24(reader, "qp_num")?;
        let psn = u24(reader, "psn")?;
        let gid = reader.array("gid")?;
        let dc_key = reader.u64("dc_key")?;
        let lid = reader.u16("lid")?;
        let mtu = match reader.u8("mtu code")? {
            code @ 1..=5 => 128 << code,
            code => {
                return Err(DecodeError::BadValue {
                    field: "mtu code",
                    value: u64::from(code),
                });
            }
        };
        Ok(Connect {
            version_min,
            version_max,
            transport,
            control,
            channel,
            qp_num,
            psn,
            gid,
            dc_key,
            lid,
            mtu,
            port: reader.u8("port")?,
            max_rd_atomic: reader.u8("max_rd_atomic")?,
            max_dest_rd_atomic: reader.u8("max_dest_rd_atomic")?,
            rail_idx: reader.u16("rail_idx")?,
            facts: Facts::read(reader)?,
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let too_large = |field, value: u64, bound| EncodeError::TooLarge {
            field,
            value,
            bound,
        };
        for (field, value) in [("qp_num", self.qp_num), ("psn", self.psn)] {
            if value > QP_NUMBER_MAX {
                return Err(too_large(field, u64::from(value), u64::from(QP_NUMBER_MAX)));
            }
        }
        let mtu_code = match self.mtu {
            256 => 1,
            512 => 2,
            1024 => 3,
            2048 => 4,
            4096 => 5,
            mtu => {
                return Err(too_large(
                    "mtu, which isn't a power of two,",
                    u64::from(mtu),
                    4096,
                ));
            }
        };
        out.extend_from_slice(&[self.version_min, self.version_max]);
        out.extend_from_slice(&[self.transport.to_wire(), self.control.to_wire()]);
        out.extend_from_slice(&self.channel.to_le_bytes());
        out.extend_from_slice(&self.qp_num.to_le_bytes());
        out.extend_from_slice(&self.psn.to_le_bytes());
        out.extend_from_slice(&self.gid);
        out.extend_from_slice(&self.dc_key.to_le_bytes());
        out.extend_from_slice(&self.lid.to_le_bytes());
        out.extend_from_slice(&[mtu_code, self.port]);
        out.extend_from_slice(&[self.max_rd_atomic, self.max_dest_rd_atomic]);
        out.extend_from_slice(&self.rail_idx.to_le_bytes());
        out.extend_from_slice(&(self.facts.count as u16).to_le_bytes());
        out.extend_from_slice(self.facts.bytes);
        Ok(())
    }
}

fn u24(reader: &mut Reader<'_>, field: &'static str) -> Result<u32, DecodeError> {
    let value = reader.u32(field)?;
    if value <= QP_NUMBER_MAX {
        return Ok(value);
    }
    Err(DecodeError::TooLarge {
        field,
        value: value.into(),
        bound: QP_NUMBER_MAX.into(),
    })
}

/// Fabric facts, checked and not copied.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Facts<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Facts<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = usize::from(reader.u16("fact count")?);
        if count > FACTS_MAX {
            let (value, bound) = (count as u64, FACTS_MAX as u64);
            return Err(DecodeError::TooLarge {
                field: "fact count",
                value,
                bound,
            });
        }
        let bytes = reader.rest();
        let mut last = None;
        for _ in 0..count {
            let (tag, _) = read_fact(reader)?;
            // Rising tags make the encoding canonical: no fact twice, no order to disagree on.
            if last.is_some_and(|last| last >= tag & !FACT_CRITICAL) {
                return Err(DecodeError::BadValue {
                    field: "fact tag",
                    value: u64::from(tag),
                });
            }
            let known = FactTag::from_wire(tag & !FACT_CRITICAL).is_ok();
            if tag & FACT_CRITICAL != 0 && !known {
                let (field, value) = ("critical fact tag", u64::from(tag));
                return Err(DecodeError::BadValue { field, value });
            }
            last = Some(tag & !FACT_CRITICAL);
        }
        Ok(Facts {
            count,
            bytes: &bytes[..bytes.len() - reader.left()],
        })
    }

    /// All facts: tag (without its critical bit) and value, unknown tags too.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        std::iter::from_fn(move || read_fact(&mut reader).ok())
            .map(|(tag, value)| (tag & !FACT_CRITICAL, value))
    }

    /// A number; `None` if the side didn't send it, or not as 8 bytes.
    pub fn number(&self, tag: FactTag) -> Option<u64> {
        Some(u64::from_le_bytes(self.value(tag)?.try_into().ok()?))
    }

    /// A text; `None` if the side didn't send it, or not as UTF-8.
    pub fn text(&self, tag: FactTag) -> Option<&'a str> {
        std::str::from_utf8(self.value(tag)?).ok()
    }

    fn value(&self, tag: FactTag) -> Option<&'a [u8]> {
        self.iter()
            .find(|(found, _)| *found == tag.to_wire())
            .map(|(_, value)| value)
    }
}

fn read_fact<'a>(reader: &mut Reader<'a>) -> Result<(u16, &'a [u8]), DecodeError> {
    let tag = reader.u16("fact tag")?;
    let len = usize::from(reader.u16("fact length")?);
    if len > FACT_BYTES_MAX {
        let (value, bound) = (len as u64, FACT_BYTES_MAX as u64);
        return Err(DecodeError::TooLarge {
            field: "fact length",
            value,
            bound,
        });
    }
    Ok((tag, reader.bytes("fact", len)?))
}

/// Collects facts to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactsBuf {
    count: usize,
    last: u16,
    bytes: Vec<u8>,
}

impl FactsBuf {
    /// No facts.
    pub fn new() -> Self {
        FactsBuf::default()
    }

    /// Adds a number.
    ///
    /// # Panics
    /// If facts don't come in rising order of their tags.
    pub fn push_number(&mut self, tag: FactTag, value: u64) {
        self.push(tag, &value.to_le_bytes());
    }

    /// Adds a text; what exceeds [`FACT_BYTES_MAX`] is cut at a character.
    ///
    /// # Panics
    /// If facts don't come in rising order of their tags.
    pub fn push_text(&mut self, tag: FactTag, text: &str) {
        let mut len = text.len().min(FACT_BYTES_MAX);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        self.push(tag, &text.as_bytes()[..len]);
    }

    fn push(&mut self, tag: FactTag, value: &[u8]) {
        assert!(
            tag.to_wire() > self.last,
            "facts must come in rising order of their tags"
        );
        self.last = tag.to_wire();
        self.count += 1;
        self.bytes.extend_from_slice(&tag.to_wire().to_le_bytes());
        self.bytes
            .extend_from_slice(&(value.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(value);
    }

    /// The facts, for a [`Connect`].
    pub fn as_facts(&self) -> Facts<'_> {
        Facts {
            count: self.count,
            bytes: &self.bytes,
        }
    }
}
