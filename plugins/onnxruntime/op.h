// Ops for ONNX Runtime. Each consists of its declaration in the op table and a function that makes the kernel of a
// node.
//
// Nodes are checked against the declaration before `make`, and calls before the kernel. Both may throw OpError, which
// becomes a status that begins with the op's name.
#pragma once

#include <onnxruntime_c_api.h>

#include <functional>
#include <vector>

#include "onnxruntime/kernel_info.h"
#include "ops/op_table.h"

namespace vmoe::ort {

// The kernel of one node. Many threads may call it at once.
using Kernel = std::function<void(const Call&)>;

struct Op {
  const ops::OpSpec& spec;
  Kernel (*make)(const NodeInfo& node);
  bool in_place = false;  // output 0 may use the memory of input 0
};

// Makes a kernel that needs nothing from its node.
template <void (*kCompute)(const Call&)>
Kernel without_state(const NodeInfo&) {
  return kCompute;
}

// The ops of a library, in order of registration. They live as long as the process.
using OpList = std::vector<const OrtCustomOp*>;

// Adds an op for each token type that it supports, for an execution provider; null is the CPU.
void add_op(OpList& list, const Op& op, const char* provider = nullptr);

// The kernels for the CPU, by subject.
void add_routing_ops(OpList& list);
void add_expert_ops(OpList& list);
void add_dense_ops(OpList& list);
void add_soft_ops(OpList& list);

// Returns all ops of this library; each library defines its own. Throws OpError if this process can't run them.
OpList library_ops();

}  // namespace vmoe::ort
