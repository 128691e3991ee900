// Ops for ONNX Runtime: each is its declaration in the op table and a function that makes the kernel of a node.
//
// What a node has and what a call gives is checked against the declaration before either is called. Both may throw
// OpError; ONNX Runtime gets a status that begins with the op's name.
#pragma once

#include <onnxruntime_c_api.h>

#include <functional>
#include <vector>

#include "onnxruntime/kernel_info.h"
#include "ops/op_table.h"

namespace vmoe::ort {

// The kernel of one node: called from many threads at once.
using Kernel = std::function<void(const Call&)>;

struct Op {
  const ops::OpSpec& spec;
  Kernel (*make)(const NodeInfo& node);
  bool in_place = false;  // output 0 may be where input 0 is
};

// For ops whose kernel needs nothing of its node but what a call has.
template <void (*kCompute)(const Call&)>
Kernel without_state(const NodeInfo&) {
  return kCompute;
}

// The ops of a library, in the order of registration. They live as long as the process.
using OpList = std::vector<const OrtCustomOp*>;

// Adds the op for each type of tokens that it takes, run by an execution provider; null: the
// CPU's.
void add_op(OpList& list, const Op& op, const char* provider = nullptr);

// The kernels for the CPU, by subject.
void add_routing_ops(OpList& list);
void add_expert_ops(OpList& list);
void add_dense_ops(OpList& list);
void add_soft_ops(OpList& list);

// All ops of this library: each library has its own. Throws OpError if this process can't run them.
OpList library_ops();

}  // namespace vmoe::ort
