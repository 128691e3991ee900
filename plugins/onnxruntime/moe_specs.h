// What the ops take and give that the CPU and a GPU run.
#pragma once

#include "onnxruntime/op_spec.h"

namespace vmoe::ort {

inline constexpr ValueSpec kRouteInputs[] = {
    {"gates", kGates, "GSE"}, {"capacity", kInt64, "1", true}, {"k", kInt64, "1", true}, {"bpr", kInt64, "1", true}};
inline constexpr ValueSpec kRouteOutputs[] = {
    {"slot", kInt32, "GSK"}, {"weight", kGates, "GSK"}, {"src", kInt32, "EM"}};
inline constexpr OpSpec kRouteSpec{"VmoeRoute", kRouteInputs, 4, kRouteOutputs, 3};

inline constexpr ValueSpec kDispatchInputs[] = {{"x", kTokens, "GSD"}, {"src", kInt32, "EM"}};
inline constexpr ValueSpec kDispatchOutputs[] = {{"buf", kTokens, "EMD"}};
inline constexpr OpSpec kDispatchSpec{"VmoeDispatch", kDispatchInputs, 2, kDispatchOutputs, 1};

inline constexpr ValueSpec kRouteDispatchInputs[] = {{"gates", kGates, "GSE"},
                                                     {"x", kTokens, "GSD"},
                                                     {"capacity", kInt64, "1", true},
                                                     {"k", kInt64, "1", true},
                                                     {"bpr", kInt64, "1", true}};
inline constexpr ValueSpec kRouteDispatchOutputs[] = {
    {"slot", kInt32, "GSK"}, {"weight", kGates, "GSK"}, {"buf", kTokens, "EMD"}};
inline constexpr OpSpec kRouteDispatchSpec{"VmoeRouteDispatch", kRouteDispatchInputs, 5, kRouteDispatchOutputs, 3};

inline constexpr ValueSpec kCombineInputs[] = {
    {"out", kTokens, "EMD"}, {"slot", kInt32, "GSK"}, {"weight", kGates, "GSK"}};
inline constexpr ValueSpec kCombineOutputs[] = {{"y", kTokens, "GSD"}};
inline constexpr OpSpec kCombineSpec{"VmoeCombine", kCombineInputs, 3, kCombineOutputs, 1};

}  // namespace vmoe::ort
