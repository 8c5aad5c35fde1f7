//! The two copies of one volume and how bytes reach both.
//!
//! Cores: [`port`] and [`storage`] are the words they use. Shell: [`io`].
//! Not here: who may serve (control-plane), what an NBD client is (nbd-frontend).

pub mod gate;
pub mod port;
pub mod storage;

pub mod io {
    //! The shell: the only place of the workspace with `unsafe` code.
}
