#include "instructions.h"

#include <sstream>
#include <unordered_map>

#include "arithmetic.h"

namespace gpu_emulator {
namespace {

constexpr uint64_t k16 = 0xffff;
constexpr uint64_t k32 = 0xffffffff;

struct Row {
  const char* names;  // separated by spaces
  size_t sources;
  Run run;
};

// The first destination becomes the value of an expression of the sources a, b, c and d.
#define COMPUTE(expression)                                                                        \
  [](Machine& machine, const Instruction* at, uint64_t* r) -> const Instruction* {                 \
    const uint64_t a = r[at->from[0]], b = r[at->from[1]], c = r[at->from[2]], d = r[at->from[3]]; \
    static_cast<void>(a), static_cast<void>(b), static_cast<void>(c), static_cast<void>(d);        \
    r[at->to[0]] = static_cast<uint64_t>(expression);                                              \
    return run_from(machine, at + 1, r);                                                           \
  }

// The same, for an expression that divides by `divisor`.
#define DIVIDE(expression, divisor)                                                \
  [](Machine& machine, const Instruction* at, uint64_t* r) -> const Instruction* { \
    const uint64_t a = r[at->from[0]], b = r[at->from[1]];                         \
    if ((divisor) == 0) return at;                                                 \
    r[at->to[0]] = expression;                                                     \
    return run_from(machine, at + 1, r);                                           \
  }

// clang-format off
const Row kRows[] = {
    {"mov.pred", 1, COMPUTE(a & 1)},
    {"mov.b16 mov.u16", 1, COMPUTE(a & k16)},
    {"mov.b32 mov.u32 mov.s32 mov.f32", 1, COMPUTE(a & k32)},
    {"mov.b64 mov.u64 mov.s64 cvta.to.global.u64", 1, COMPUTE(a)},

    {"add.f32 add.rn.f32", 2, COMPUTE(bits_of(f32(a) + f32(b)))},
    {"sub.f32 sub.rn.f32", 2, COMPUTE(bits_of(f32(a) - f32(b)))},
    {"mul.f32 mul.rn.f32", 2, COMPUTE(bits_of(f32(a) * f32(b)))},
    {"div.rn.f32", 2, COMPUTE(bits_of(f32(a) / f32(b)))},
    {"fma.rn.f32", 3, COMPUTE(bits_of(std::fma(f32(a), f32(b), f32(c))))},
    {"max.f32", 2, COMPUTE(bits_of(max_f32(f32(a), f32(b))))},
    {"neg.f32", 1, COMPUTE(u32(a) ^ 0x80000000u)},
    {"abs.f32", 1, COMPUTE(a & 0x7fffffff)},

    {"add.s32 add.u32", 2, COMPUTE(u32(a + b))},
    {"sub.s32 sub.u32", 2, COMPUTE(u32(a - b))},
    {"neg.s32", 1, COMPUTE(u32(-a))},
    {"mul.lo.s32 mul.lo.u32", 2, COMPUTE(u32(a * b))},
    {"mul.wide.u32", 2, COMPUTE((a & k32) * (b & k32))},
    {"mul.wide.s32", 2, COMPUTE(from_signed(int64_t{s32(a)} * s32(b)))},
    {"mad.lo.s32 mad.lo.u32", 3, COMPUTE(u32(a * b + c))},
    {"div.u32", 2, DIVIDE(u32(a) / u32(b), u32(b))},
    {"rem.u32", 2, DIVIDE(u32(a) % u32(b), u32(b))},
    {"min.u32", 2, COMPUTE(std::min(u32(a), u32(b)))},
    {"max.u32", 2, COMPUTE(std::max(u32(a), u32(b)))},
    {"min.s32", 2, COMPUTE(u32(from_signed(std::min(s32(a), s32(b)))))},
    {"max.s32", 2, COMPUTE(u32(from_signed(std::max(s32(a), s32(b)))))},

    {"add.s64 add.u64", 2, COMPUTE(a + b)},
    {"sub.s64 sub.u64", 2, COMPUTE(a - b)},
    {"mul.lo.s64 mul.lo.u64", 2, COMPUTE(a * b)},
    {"mad.lo.s64 mad.lo.u64", 3, COMPUTE(a * b + c)},
    {"div.u64", 2, DIVIDE(a / b, b)},
    {"rem.u64", 2, DIVIDE(a % b, b)},
    {"min.u64", 2, COMPUTE(std::min(a, b))},
    {"max.u64", 2, COMPUTE(std::max(a, b))},

    {"and.pred and.b16 and.b32 and.b64", 2, COMPUTE(a & b)},
    {"or.pred or.b16 or.b32 or.b64", 2, COMPUTE(a | b)},
    {"xor.pred xor.b32 xor.b64", 2, COMPUTE(a ^ b)},
    {"not.pred", 1, COMPUTE(~a & 1)},
    {"not.b32", 1, COMPUTE(~a & k32)},
    {"not.b64", 1, COMPUTE(~a)},
    {"shl.b16", 2, COMPUTE(u32(b) > 15 ? 0 : a << u32(b) & k16)},
    {"shl.b32", 2, COMPUTE(u32(b) > 31 ? 0 : a << u32(b) & k32)},
    {"shl.b64", 2, COMPUTE(u32(b) > 63 ? 0 : a << u32(b))},
    {"shr.u32 shr.b32", 2, COMPUTE(u32(b) > 31 ? 0 : u32(a) >> u32(b))},
    {"shr.u64 shr.b64", 2, COMPUTE(u32(b) > 63 ? 0 : a >> u32(b))},
    {"shr.s32", 2, COMPUTE(u32(from_signed(s32(a) >> std::min(u32(b), 31u))))},
    {"bfi.b32", 4, COMPUTE(insert_bits(a, b, c, d, 32))},
    {"bfi.b64", 4, COMPUTE(insert_bits(a, b, c, d, 64))},
    {"prmt.b32", 3, COMPUTE(permute(u32(a), u32(b), u32(c)))},
    {"popc.b32", 1, COMPUTE(__builtin_popcount(u32(a)))},

    {"selp.b16 selp.u16 selp.b32 selp.u32 selp.s32 selp.f32 selp.b64 selp.u64 selp.s64", 3, COMPUTE(c ? a : b)},

    {"setp.eq.b16 setp.eq.s16 setp.eq.u16", 2, COMPUTE(((a ^ b) & k16) == 0)},
    {"setp.ne.b16 setp.ne.s16 setp.ne.u16", 2, COMPUTE(((a ^ b) & k16) != 0)},
    {"setp.eq.b32 setp.eq.s32 setp.eq.u32", 2, COMPUTE(u32(a) == u32(b))},
    {"setp.ne.b32 setp.ne.s32 setp.ne.u32", 2, COMPUTE(u32(a) != u32(b))},
    {"setp.lt.u32", 2, COMPUTE(u32(a) < u32(b))},
    {"setp.le.u32", 2, COMPUTE(u32(a) <= u32(b))},
    {"setp.gt.u32", 2, COMPUTE(u32(a) > u32(b))},
    {"setp.ge.u32", 2, COMPUTE(u32(a) >= u32(b))},
    {"setp.lt.s32", 2, COMPUTE(s32(a) < s32(b))},
    {"setp.le.s32", 2, COMPUTE(s32(a) <= s32(b))},
    {"setp.gt.s32", 2, COMPUTE(s32(a) > s32(b))},
    {"setp.ge.s32", 2, COMPUTE(s32(a) >= s32(b))},
    {"setp.eq.b64 setp.eq.s64 setp.eq.u64", 2, COMPUTE(a == b)},
    {"setp.ne.b64 setp.ne.s64 setp.ne.u64", 2, COMPUTE(a != b)},
    {"setp.lt.u64", 2, COMPUTE(a < b)},
    {"setp.le.u64", 2, COMPUTE(a <= b)},
    {"setp.gt.u64", 2, COMPUTE(a > b)},
    {"setp.ge.u64", 2, COMPUTE(a >= b)},
    {"setp.lt.s64", 2, COMPUTE(s64(a) < s64(b))},
    {"setp.gt.s64", 2, COMPUTE(s64(a) > s64(b))},
    {"setp.eq.f32", 2, COMPUTE(f32(a) == f32(b))},
    {"setp.ne.f32", 2, COMPUTE(f32(a) < f32(b) || f32(a) > f32(b))},
    {"setp.neu.f32", 2, COMPUTE(f32(a) != f32(b))},
    {"setp.lt.f32", 2, COMPUTE(f32(a) < f32(b))},
    {"setp.le.f32", 2, COMPUTE(f32(a) <= f32(b))},
    {"setp.gt.f32", 2, COMPUTE(f32(a) > f32(b))},
    {"setp.ge.f32", 2, COMPUTE(f32(a) >= f32(b))},
    {"setp.num.f32", 2, COMPUTE(!std::isnan(f32(a)) && !std::isnan(f32(b)))},
    {"setp.nan.f32", 2, COMPUTE(std::isnan(f32(a)) || std::isnan(f32(b)))},

    {"cvt.u16.u32", 1, COMPUTE(a & k16)},
    {"cvt.u32.u16", 1, COMPUTE(a & k16)},
    {"cvt.u32.u64", 1, COMPUTE(a & k32)},
    {"cvt.u64.u32", 1, COMPUTE(a & k32)},
    {"cvt.s64.s32", 1, COMPUTE(from_signed(s32(a)))},
    {"cvt.rzi.s32.f32", 1, COMPUTE(u32(from_signed(int_of(f32(a)))))},
    {"cvt.f32.f16", 1, COMPUTE(bits_of(float_of_half(a)))},
    {"cvt.rn.f16.f32", 1, COMPUTE(half_of(f32(a)))},
    {"cvt.rz.f16.f32", 1, COMPUTE(half_towards_zero(f32(a)))},
    {"cvt.rn.bf16.f32", 1, COMPUTE(bfloat_of(f32(a)))},
};
// clang-format on

std::unordered_map<std::string, RegisterInstruction> by_name() {
  std::unordered_map<std::string, RegisterInstruction> found;
  for (const Row& row : kRows) {
    std::istringstream names(row.names);
    for (std::string name; names >> name;) found[name] = {row.run, row.sources};
  }
  return found;
}

}  // namespace

const RegisterInstruction* find_register_instruction(const std::string& name) {
  static const auto instructions = by_name();
  const auto found = instructions.find(name);
  return found == instructions.end() ? nullptr : &found->second;
}

}  // namespace gpu_emulator
