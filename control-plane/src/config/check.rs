//! Whether the values of a well-formed configuration can be used together.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use base::limits;
use tracing_subscriber::EnvFilter;

use super::{NodeConfig, PairSection, Problem};

/// Witnesses that a pair may list, at most.
pub(super) const WITNESSES_MAX: usize = 8;

type Checked = Result<(), (String, Problem)>;

fn refuse(key: impl Into<String>, problem: Problem) -> Checked {
    Err((key.into(), problem))
}

/// The key of the first value that cannot be used, and why.
pub(super) fn check(config: &NodeConfig) -> Checked {
    check_node(config)?;
    check_addresses(config)?;
    if let Some(pair) = &config.pair {
        check_pair(config, pair)?;
    }
    check_volumes(config)
}

fn check_node(config: &NodeConfig) -> Checked {
    if config.node.name == config.peer.name {
        return refuse("peer.name", Problem::SameName(config.peer.name.clone()));
    }
    if config.node.record_dirs[0] == config.node.record_dirs[1] {
        return refuse("node.record_dirs", Problem::SameRecordDir);
    }
    if EnvFilter::try_new(&config.node.log).is_err() || config.node.log.trim().is_empty() {
        return refuse("node.log", Problem::Log(config.node.log.clone()));
    }
    Ok(())
}

fn check_addresses(config: &NodeConfig) -> Checked {
    let all: [(&'static str, Option<SocketAddr>); 5] = [
        ("node.address", Some(config.node.address)),
        ("peer.address", Some(config.peer.address)),
        ("nbd.listen", Some(config.nbd.listen)),
        ("admin.listen", config.admin.listen),
        ("metrics.listen", config.metrics.listen),
    ];
    for (index, (key, address)) in all.iter().enumerate() {
        let Some(address) = *address else { continue };
        if address.ip().is_unspecified() || address.port() == 0 {
            return refuse(*key, Problem::Unspecified(address));
        }
        if let Some((other, _)) = all[..index].iter().find(|(_, before)| *before == Some(address)) {
            return refuse(*key, Problem::SameAddress { address, other });
        }
    }
    if config.node.address.is_ipv4() != config.peer.address.is_ipv4() {
        return refuse("peer.address", Problem::Family(config.peer.address));
    }
    Ok(())
}

fn check_pair(config: &NodeConfig, pair: &PairSection) -> Checked {
    if pair.id.is_none() {
        return refuse("pair.id", Problem::NoId);
    }
    if pair.preferred != config.node.name && pair.preferred != config.peer.name {
        let problem = Problem::NotANode {
            found: pair.preferred.clone(),
            node: config.node.name.clone(),
            peer: config.peer.name.clone(),
        };
        return refuse("pair.preferred", problem);
    }
    if pair.witnesses.len() > WITNESSES_MAX {
        return refuse("pair.witnesses", Problem::WitnessCount(pair.witnesses.len()));
    }
    let mut names = BTreeSet::from([&config.node.name, &config.peer.name]);
    for (index, witness) in pair.witnesses.iter().enumerate() {
        let key = format!("pair.witnesses[{index}]");
        if !names.insert(&witness.name) {
            return refuse(key, Problem::WitnessName(witness.name.clone()));
        }
        if witness.address.ip().is_unspecified() || witness.address.port() == 0 {
            return refuse(key, Problem::Unspecified(witness.address));
        }
        if witness.address.is_ipv4() != config.node.address.is_ipv4() {
            return refuse(key, Problem::Family(witness.address));
        }
    }
    Ok(())
}

fn check_volumes(config: &NodeConfig) -> Checked {
    if config.volumes.len() > limits::VOLUMES_MAX {
        return refuse("volume", Problem::VolumeCount(config.volumes.len()));
    }
    let mut names = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for (index, volume) in config.volumes.iter().enumerate() {
        let key = |name: &str| format!("volume[{index}].{name}");
        if !names.insert(&volume.name) {
            return refuse(key("name"), Problem::VolumeName(volume.name.clone()));
        }
        if !paths.insert(&volume.path) {
            return refuse(key("path"), Problem::VolumePath);
        }
        if let Some(id) = volume.id {
            if id.is_none() {
                return refuse(key("id"), Problem::NoId);
            }
            if !ids.insert(id) {
                return refuse(key("id"), Problem::VolumeId);
            }
        }
        if let Some(size) = volume.size
            && (size == 0
                || !size.is_multiple_of(limits::BLOCK_BYTES)
                || size > limits::VOLUME_SIZE_MAX)
        {
            return refuse(key("size"), Problem::VolumeSize(size));
        }
    }
    Ok(())
}
