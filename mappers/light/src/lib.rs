//! The LED of the KubeEdge example as a device mapper.
