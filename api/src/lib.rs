//! gRPC messages and services generated from the definitions in proto/.
