//! Decides who serves, and what people and scripts talk to.
#![forbid(unsafe_code)]

pub mod admin;
pub mod arbitration;
pub mod config;
pub mod pki;
pub mod polarization;
pub mod record;
pub mod state_word;
pub mod status;
pub mod wire;

/// Thin shells: threads, sockets, files.
pub mod io {
    pub use base::io::{process_log, threads};

    pub mod admin_client;
    pub mod admin_server;
    mod certificates;
    pub mod cli;
    pub mod config_file;
    pub mod decision_file;
    pub mod demo;
    pub mod front_thread;
    pub mod group_thread;
    mod http_server;
    pub mod init;
    pub mod mailbox;
    pub mod metrics;
    pub mod node;
    pub mod peer_link;
    pub mod pki_files;
    pub mod record_files;
    pub mod record_writer;
    pub mod run_files;
    pub mod stop_signals;
    pub mod volume_thread;
}
