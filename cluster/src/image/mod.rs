//! Container images for the nodes, without a container engine: layers as `weir_deploy` makes them,
//! in archives of several images, which containerd imports.

pub mod archive;
pub mod set;
