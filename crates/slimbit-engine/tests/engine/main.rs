//! The engine against its definition, on random networks that use every operator.

mod allocation;
mod corpus;
mod counting;
mod damage;
mod equality;
mod file;
mod graphs;
mod limits;
mod lowering;
mod mutation;
mod preprocessing;
mod proof;
mod reseal;
mod threads;
