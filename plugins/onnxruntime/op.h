// Ops for ONNX Runtime. Each op consists of its declaration in the op table and a function `make`, which creates the
// kernel of a node.
//
// Each node is checked against the declaration before `make` runs, and each call is checked before the kernel runs.
// `make` and the kernel may throw OpError, which is converted to a status whose message begins with the op's name.
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

// Creates the kernel for an op whose kernel, kCompute, does not depend on the node.
template <void (*kCompute)(const Call&)>
Kernel without_state(const NodeInfo&) {
  return kCompute;
}

// The ops of a library, in order of registration. They live as long as the process.
using OpList = std::vector<const OrtCustomOp*>;

// Adds one custom op for each token type that `op` supports. The ops are for the execution provider `provider`, or for
// the CPU if `provider` is null.
void add_op(OpList& list, const Op& op, const char* provider = nullptr);

// Each of these functions adds the ops of one subject, with kernels for the CPU.
void add_routing_ops(OpList& list);
void add_expert_ops(OpList& list);
void add_dense_ops(OpList& list);
void add_soft_ops(OpList& list);

// Returns all ops of this library. Each op library has its own definition of this function. Throws OpError if this
// process can't run the ops.
OpList library_ops();

}  // namespace vmoe::ort
