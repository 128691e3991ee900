// Reads PTX as nvcc writes it.
#include "module.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "instructions.h"

namespace gpu_emulator {
namespace {

constexpr size_t kMostRegisters = 65535;

// Divides PTX into words (names, numbers and strings) and single punctuation marks, without comments.
std::vector<std::string> tokens_of(const std::string& ptx) {
  const auto in_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || std::strchr("_$%.-", c); };
  std::vector<std::string> tokens;
  for (size_t i = 0; i < ptx.size();) {
    size_t end = i + 1;
    if (std::isspace(static_cast<unsigned char>(ptx[i]))) {
      i = end;
      continue;
    }
    if (ptx.compare(i, 2, "//") == 0) {
      i = std::min(ptx.find('\n', i), ptx.size());
      continue;
    }
    if (ptx[i] == '"') {
      end = std::min(ptx.find('"', end), ptx.size() - 1) + 1;
    } else if (in_word(ptx[i])) {
      while (end < ptx.size() && in_word(ptx[end])) ++end;
    }
    tokens.push_back(ptx.substr(i, end - i));
    i = end;
  }
  return tokens;
}

std::vector<std::string> parts_of(const std::string& name) {
  std::vector<std::string> parts(1);
  for (const char c : name) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

uint8_t bytes_of_type(const std::string& type) {
  static const std::map<std::string, uint8_t> bytes{{"b8", 1},  {"u8", 1},  {"b16", 2}, {"u16", 2},
                                                    {"b32", 4}, {"u32", 4}, {"s32", 4}, {"f32", 4},
                                                    {"b64", 8}, {"u64", 8}, {"s64", 8}};
  const auto found = bytes.find(type);
  if (found == bytes.end()) fail("type " + type);
  return found->second;
}

// One operand: registers or constants ({a, b}, a|b or a), or an address ([a + offset]).
struct Operand {
  std::vector<std::string> words;
  bool is_address = false;
  int64_t offset = 0;
};

// Reads the tokens in their order.
class Tokens {
 public:
  explicit Tokens(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {}

  bool at_end() const { return next_ == tokens_.size(); }
  size_t position() const { return next_; }
  const std::string& peek(size_t ahead = 0) const {
    if (next_ + ahead >= tokens_.size()) fail("the text ends early");
    return tokens_[next_ + ahead];
  }
  std::string take() {
    std::string token = peek();
    ++next_;
    return token;
  }
  bool take_if(const std::string& token) {
    if (peek() != token) return false;
    ++next_;
    return true;
  }
  void expect(const std::string& token) {
    if (!take_if(token)) fail("'" + peek() + "' instead of '" + token + "'");
  }
  int64_t take_number() { return std::stoll(take(), nullptr, 0); }

  // Returns the text of the statement that contains the token at `position`.
  std::string statement_at(size_t position) const {
    std::string text;
    for (size_t i = position; i < tokens_.size() && tokens_[i] != ";"; ++i)
      text += (text.empty() ? "" : " ") + tokens_[i];
    return text.substr(0, 200);
  }

 private:
  std::vector<std::string> tokens_;
  size_t next_ = 0;
};

class KernelReader {
 public:
  // dynamic_shared: the name of the shared memory whose size a launch determines; "" if the module has none.
  KernelReader(Tokens& tokens, const std::string& dynamic_shared) : tokens_(tokens), dynamic_shared_(dynamic_shared) {
    for (const char* const name : kSpecialRegisters) names_[name] = add_register(0, true);
  }

  Kernel read() {
    kernel_.name = tokens_.take();
    read_parameters();
    while (!tokens_.take_if("{")) read_bound();
    scopes_.emplace_back();
    while (!scopes_.empty()) read_statement();
    for (const auto& [branch, label] : branches_) {
      const auto found = labels_.find(label);
      if (found == labels_.end()) fail("no label " + label);
      kernel_.code[branch].offset = static_cast<int32_t>(found->second);
    }
    Instruction end;
    end.kind = Kind::kReturn;
    add(end, "the end of the kernel");
    return std::move(kernel_);
  }

 private:
  Tokens& tokens_;
  const std::string dynamic_shared_;
  Kernel kernel_;
  std::unordered_map<std::string, uint32_t> parameters_;  // offsets in bytes
  std::unordered_map<std::string, uint16_t> names_;       // registers
  std::map<uint64_t, uint16_t> constants_;
  std::vector<std::vector<std::string>> scopes_;  // names of the registers of each scope that is open
  std::unordered_map<std::string, size_t> labels_;
  std::vector<std::pair<size_t, std::string>> branches_;

  uint16_t add_register(uint64_t value, bool is_constant) {
    if (kernel_.registers.size() == kMostRegisters) fail("too many registers");
    kernel_.registers.push_back(value);
    kernel_.is_constant.push_back(is_constant);
    return static_cast<uint16_t>(kernel_.registers.size() - 1);
  }

  void declare(const std::string& name) {
    if (!names_.emplace(name, 0).second) fail("a second register " + name);
    names_[name] = add_register(0, false);
    scopes_.back().push_back(name);
  }

  uint16_t register_of(const std::string& name) const {
    const auto found = names_.find(name);
    if (found == names_.end()) fail("no register " + name);
    return found->second;
  }

  uint16_t destination(const std::string& name) {
    if (name == "_") return add_register(0, false);  // the value is not needed
    const uint16_t found = register_of(name);
    if (found < kSpecialRegisters.size()) fail("writes " + name);
    return found;
  }

  // Returns the register with this name, or the register of a constant.
  uint16_t source(const std::string& text) {
    if (text[0] == '%' || names_.count(text) != 0) return register_of(text);
    uint64_t value = kSharedBase;
    if (text != dynamic_shared_) {
      const bool is_float = text.compare(0, 2, "0f") == 0;
      char* end = nullptr;
      const std::string digits = is_float ? "0x" + text.substr(2) : text;
      value = text[0] == '-' ? static_cast<uint64_t>(std::strtoll(digits.c_str(), &end, 0))
                             : std::strtoull(digits.c_str(), &end, 0);
      if (*end == 'U') ++end;  // an unsigned number
      if (*end != '\0') fail("no register or number " + text);
    }
    const auto [found, is_new] = constants_.emplace(value, 0);
    if (is_new) found->second = add_register(value, true);
    return found->second;
  }

  // Reads parameters such as ".param .u64 a" and ".param .align 4 .b8 b[40]".
  void read_parameters() {
    tokens_.expect("(");
    while (!tokens_.take_if(")")) {
      tokens_.take_if(",");
      tokens_.expect(".param");
      uint32_t alignment = 0;
      uint32_t bytes = 0;
      std::string name = tokens_.take();
      for (; name[0] == '.'; name = tokens_.take()) {
        if (name == ".align") {
          const auto said = static_cast<uint32_t>(tokens_.take_number());
          if (bytes == 0) alignment = said;  // after the type, it is the alignment of the memory at a pointer
        } else if (name != ".ptr") {
          bytes = bytes_of_type(name.substr(1));
        }
      }
      if (alignment == 0) alignment = bytes;
      if (tokens_.take_if("[")) {
        bytes *= static_cast<uint32_t>(tokens_.take_number());
        tokens_.expect("]");
      }
      uint32_t& end = kernel_.parameter_bytes;
      end = (end + alignment - 1) / alignment * alignment;
      parameters_[name] = end;
      kernel_.parameters.push_back({end, bytes});
      end += bytes;
    }
  }

  void read_bound() {
    const std::string bound = tokens_.take();
    int64_t product = tokens_.take_number();
    while (tokens_.take_if(",")) product *= tokens_.take_number();
    if (bound == ".maxntid") {
      kernel_.max_threads = static_cast<uint32_t>(product);
    } else if (bound != ".minnctapersm") {
      fail("bound " + bound);
    }
  }

  void read_statement() {
    const size_t begin = tokens_.position();
    try {
      if (tokens_.take_if("{")) {
        scopes_.emplace_back();
      } else if (tokens_.take_if("}")) {
        for (const std::string& name : scopes_.back()) names_.erase(name);
        scopes_.pop_back();
      } else if (tokens_.peek(1) == ":") {
        labels_[tokens_.take()] = kernel_.code.size();
        tokens_.expect(":");
      } else {
        if (tokens_.peek()[0] == '.') {
          read_directive();
        } else {
          read_instruction(tokens_.statement_at(begin));
        }
        tokens_.expect(";");
      }
    } catch (const std::exception& error) {
      fail("'" + tokens_.statement_at(begin) + "': " + error.what());
    }
  }

  void read_directive() {
    const std::string directive = tokens_.take();
    if (directive == ".pragma") {
      if (tokens_.take() != "\"nounroll\"") fail("pragma");
      return;
    }
    if (directive != ".reg") fail("directive");
    tokens_.take();  // the type
    do {
      const std::string name = tokens_.take();
      if (!tokens_.take_if("<")) {
        declare(name);
        continue;
      }
      const int64_t count = tokens_.take_number();
      for (int64_t i = 0; i < count; ++i) declare(name + std::to_string(i));
      tokens_.expect(">");
    } while (tokens_.take_if(","));
  }

  Operand read_operand() {
    Operand operand;
    if (tokens_.take_if("{")) {
      do operand.words.push_back(tokens_.take());
      while (tokens_.take_if(","));
      tokens_.expect("}");
    } else if (tokens_.take_if("[")) {
      operand.is_address = true;
      operand.words.push_back(tokens_.take());
      if (tokens_.take_if("+")) operand.offset = tokens_.take_number();
      tokens_.expect("]");
    } else {
      operand.words.push_back(tokens_.take());
      if (tokens_.take_if("|")) operand.words.push_back(tokens_.take());
    }
    return operand;
  }

  void add(const Instruction& instruction, const std::string& text) {
    kernel_.code.push_back(instruction);
    kernel_.text.push_back(text);
  }

  void read_instruction(const std::string& text) {
    Instruction made;
    const bool is_guarded = tokens_.take_if("@");
    made.condition = !is_guarded || !tokens_.take_if("!");
    const std::string guard = is_guarded ? tokens_.take() : "";
    const std::string name = tokens_.take();
    if (name == "bra" || name == "bra.uni") {
      made.kind = Kind::kBranch;
      made.from[0] = is_guarded ? destination(guard) : source("1");
      branches_.emplace_back(kernel_.code.size(), tokens_.take());
      return add(made, text);
    }
    if (is_guarded) fail("only a branch may be conditional");
    std::vector<Operand> operands;
    while (tokens_.peek() != ";") {
      if (!operands.empty()) tokens_.expect(",");
      operands.push_back(read_operand());
    }
    if (name == "ret" && operands.empty()) {
      made.kind = Kind::kReturn;
    } else if (name == "bar.sync" && operands.size() == 1 && operands[0].words[0] == "0") {
      made.kind = Kind::kBarrier;
    } else if (name == "shfl.sync.bfly.b32") {
      set_exchange(made, operands);
    } else if (name == "bar.warp.sync") {
      set_warp_barrier(made, operands);
    } else if (const auto parts = parts_of(name); parts[0] == "ld" || parts[0] == "st") {
      set_access(made, parts, operands);
    } else if (!set_halves(made, name, operands)) {
      set_compute(made, name, operands);
    }
    add(made, text);
  }

  static void expect_operands(const std::vector<Operand>& operands, size_t count) {
    if (operands.size() != count) fail("number of operands");
  }

  // Returns the only word of an operand.
  static const std::string& word_of(const Operand& operand) {
    if (operand.words.size() != 1 || operand.is_address) fail("operand");
    return operand.words[0];
  }

  void set_exchange(Instruction& made, const std::vector<Operand>& operands) {
    expect_operands(operands, 5);
    made.kind = Kind::kExchange;
    made.to[0] = destination(operands[0].words[0]);
    for (size_t i = 0; i < 4; ++i) made.from[i] = source(word_of(operands[1 + i]));
    // The predicate says whether the other lane exists. It is computed only if it is a new register, which no
    // instruction can read.
    if (operands[0].words.size() > 1) destination(operands[0].words[1]);
  }

  // The barrier of a warp is an exchange of a constant. Unlike on a GPU, what a lane wrote before it is not safe to
  // read for other lanes after it.
  void set_warp_barrier(Instruction& made, const std::vector<Operand>& operands) {
    expect_operands(operands, 1);
    made.kind = Kind::kExchange;
    made.to[0] = add_register(0, false);
    made.from = {source("0"), source("0"), source("31"), source(word_of(operands[0]))};
  }

  // ld and st, such as ld.global.nc.v4.u32.
  void set_access(Instruction& made, const std::vector<std::string>& parts, const std::vector<Operand>& operands) {
    expect_operands(operands, 2);
    const bool is_store = parts[0] == "st";
    const Operand& address = operands[is_store ? 0 : 1];
    const Operand& values = operands[is_store ? 1 : 0];
    const std::string& space = parts.at(1);
    size_t next = 2;
    made.kind = is_store ? Kind::kStore : Kind::kLoad;
    made.is_shared = space == "shared";
    made.is_non_coherent = !is_store && space == "global" && parts.at(next) == "nc";
    if (made.is_non_coherent) ++next;
    if (parts.at(next) == "v2" || parts.at(next) == "v4") made.count = static_cast<uint8_t>(parts[next++][1] - '0');
    if (next + 1 != parts.size()) fail("modifier " + parts.at(next));
    made.size = bytes_of_type(parts[next]);
    if (!address.is_address || values.is_address || values.words.size() != made.count) fail("operands");
    for (size_t i = 0; i < made.count; ++i) {
      made.to[i] = is_store ? source(values.words[i]) : destination(values.words[i]);
    }
    made.offset = static_cast<int32_t>(address.offset);
    if (space == "param") {
      const auto found = parameters_.find(address.words[0]);
      if (found == parameters_.end() || is_store || made.count != 1) fail("access to parameters");
      made.kind = Kind::kLoadParameter;
      made.offset += static_cast<int32_t>(found->second);
      if (static_cast<uint32_t>(made.offset) + made.size > kernel_.parameter_bytes) fail("past the parameters");
    } else if (space == "global" || space == "shared") {
      made.from[0] = source(address.words[0]);
    } else {
      fail("state space " + space);
    }
  }

  // mov with {} on one side. Returns false for any other instruction.
  bool set_halves(Instruction& made, const std::string& name, const std::vector<Operand>& operands) {
    if ((name != "mov.b32" && name != "mov.b64") || operands.size() != 2) return false;
    const std::vector<std::string>& to = operands[0].words;
    const std::vector<std::string>& from = operands[1].words;
    if (to.size() + from.size() != 3) return false;
    made.kind = to.size() == 2 ? Kind::kUnpack : Kind::kPack;
    made.size = name == "mov.b32" ? 2 : 4;
    for (size_t i = 0; i < to.size(); ++i) made.to[i] = destination(to[i]);
    for (size_t i = 0; i < from.size(); ++i) made.from[i] = source(from[i]);
    return true;
  }

  void set_compute(Instruction& made, const std::string& name, const std::vector<Operand>& operands) {
    const RegisterInstruction* const found = find_register_instruction(name);
    if (found == nullptr) fail("the emulator has no such instruction");
    expect_operands(operands, found->sources + 1);
    made.run = found->run;
    made.to[0] = destination(word_of(operands[0]));
    for (size_t i = 1; i < operands.size(); ++i) made.from[i - 1] = source(word_of(operands[i]));
  }
};

}  // namespace

std::vector<Kernel> read_module(const std::string& ptx) {
  Tokens tokens(tokens_of(ptx));
  std::vector<Kernel> kernels;
  std::string dynamic_shared;
  while (!tokens.at_end()) {
    const std::string directive = tokens.take();
    if (directive == ".version" || directive == ".target") {
      tokens.take();
    } else if (directive == ".address_size") {
      tokens.expect("64");
    } else if (directive == ".extern") {  // .extern .shared .align 16 .b8 name[];
      tokens.expect(".shared");
      tokens.expect(".align");
      tokens.take();
      tokens.expect(".b8");
      dynamic_shared = tokens.take();
      for (const char* const mark : {"[", "]", ";"}) tokens.expect(mark);
    } else if (directive == ".entry") {
      kernels.push_back(KernelReader(tokens, dynamic_shared).read());
    } else if (directive != ".visible") {
      fail("directive " + directive);
    }
  }
  return kernels;
}

}  // namespace gpu_emulator
