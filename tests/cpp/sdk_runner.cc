// Loads a bundle with the C++ SDK. Each line of stdin is one command. For each command, the program prints one line to
// stdout.
//
//   sdk_runner BUNDLE ONNXRUNTIME THREADS
//
// The fields of a command are separated by tabs. SETTING stands for seven fields: profile, capacity ratio, k, bpr,
// pool, max_experts and merge. A field that is not set is "-".
//   info
//   profiles
//   setting SETTING
//   warm_up SETTING COUNT
//   run SETTING DTYPE COUNT IMAGES OUTPUT          reads raw images from one file, writes raw float32 to another
//   outputs SETTING DTYPE COUNT IMAGES OUTPUT      like run, for all outputs; prints name, rows and columns of each
//   routing SETTING DTYPE COUNT IMAGES OUTPUT      writes the routing of each layer
//
// The routing of a layer begins with eight int64 numbers: kind, G, S, K, E, slots per expert (Soft MoE), and rows and
// columns of patches. They are followed by expert, kept, weight, dispatch, combine, token and the patch mask, each
// preceded by its number of elements as int64.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "loaded_engine.h"

namespace {

using Fields = std::vector<std::string>;

Fields split(const std::string& line) {
  Fields fields;
  std::istringstream stream(line);
  for (std::string field; std::getline(stream, field, '\t');) fields.push_back(field);
  return fields;
}

vmoe::Setting read_setting(const Fields& fields) {
  vmoe::Setting setting;
  if (fields[1] != "-") setting.profile = fields[1];
  if (fields[2] != "-") setting.capacity_ratio = std::strtod(fields[2].c_str(), nullptr);
  if (fields[3] != "-") setting.k = std::strtoll(fields[3].c_str(), nullptr, 10);
  if (fields[4] != "-") setting.bpr = fields[4] == "1";
  if (fields[5] != "-") setting.pool = fields[5] == "1";
  if (fields[6] != "-") setting.max_experts = std::strtoll(fields[6].c_str(), nullptr, 10);
  if (fields[7] != "-") setting.merge = std::strtoll(fields[7].c_str(), nullptr, 10);
  return setting;
}

void print_error(const vmoe::Error& error) { std::printf("error\t%d\t%s\n", error.code, error.message.c_str()); }

void print_profile(const vmoe::Profile& profile) {
  std::printf("\t%s %a %a %" PRId64 " %d %d %" PRId64 " %" PRId64 " ", profile.name.c_str(), profile.capacity_ratio,
              profile.effective_ratio, profile.k, profile.bpr ? 1 : 0, profile.pool ? 1 : 0, profile.max_experts,
              profile.merge);
  for (const int64_t slots : profile.slots) std::printf("%" PRId64 ",", slots);
}

void print_info(const vmoe::Info& info) {
  std::printf("ok\theight=%" PRId64 "\twidth=%" PRId64 "\tchannels=%" PRId64, info.height, info.width, info.channels);
  std::printf("\tinput_dtype=%d\toutput=%d\toutput_size=%" PRId64 "\tbatch_multiple=%" PRId64, info.input_dtype,
              info.output, info.output_size, info.batch_multiple);
  std::printf("\tnum_experts=%" PRId64 "\tgroup_tokens=%" PRId64 "\tgroup=%s\truntime=%s", info.num_experts,
              info.group_tokens, info.group.c_str(), info.runtime.c_str());
  std::printf("\tuses_op_library=%d\tthreads=%d\tprecision=%d\tmoe_layers=", info.uses_op_library ? 1 : 0, info.threads,
              info.precision);
  for (const auto& layer : info.moe_layers) std::printf("%s,", layer.c_str());
  std::printf("\tpreprocessing=%s\tensemble_size=%" PRId64, info.preprocessing.c_str(), info.ensemble_size);
  std::printf("\trouting_kind=%d\tfront_tokens=%d\tpatches=%" PRId64 "x%" PRId64, info.routing_kind, info.front_tokens,
              info.patch_rows, info.patch_columns);
  std::printf("\tclass_names=");
  for (const auto& name : info.class_names) std::printf("%s,", name.c_str());
  std::printf("\n");
}

// Images, and the bytes that they point to.
struct ImageFile {
  std::string bytes;
  vmoe::Images images;
};

ImageFile read_images(const Fields& fields, const vmoe::Info& info) {
  std::ifstream stream(fields[10], std::ios::binary);
  ImageFile file{{std::istreambuf_iterator<char>(stream), {}}, {}};
  file.images = {nullptr,
                 fields[8] == "uint8" ? VMOE_UINT8 : VMOE_FLOAT32,
                 std::atoll(fields[9].c_str()),
                 info.height,
                 info.width,
                 info.channels};
  return file;
}

template <typename T>
void write(std::ofstream& stream, const T* values, size_t count) {
  stream.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(count * sizeof(T)));
}

template <typename T>
void write_sized(std::ofstream& stream, const std::vector<T>& values) {
  const auto size = static_cast<int64_t>(values.size());
  write(stream, &size, 1);
  write(stream, values.data(), values.size());
}

void warm_up(const vmoe::Engine& engine, const Fields& fields) {
  const auto count = engine.warm_up(std::atoll(fields[8].c_str()), read_setting(fields));
  if (!count) return print_error(count.error());
  std::printf("ok\t%" PRId64 "\n", *count);
}

void run(const vmoe::Engine& engine, const Fields& fields) {
  ImageFile file = read_images(fields, engine.info());
  file.images.data = file.bytes.data();
  const auto output = engine.run(file.images, read_setting(fields));
  if (!output) return print_error(output.error());
  std::ofstream stream(fields[11], std::ios::binary);
  write(stream, output->data(), output->size());
  std::printf("ok\n");
}

void run_outputs(const vmoe::Engine& engine, const Fields& fields) {
  ImageFile file = read_images(fields, engine.info());
  file.images.data = file.bytes.data();
  const auto outputs = engine.run_outputs(file.images, read_setting(fields));
  if (!outputs) return print_error(outputs.error());
  std::ofstream stream(fields[11], std::ios::binary);
  std::printf("ok");
  for (const auto& output : engine.info().outputs) {
    write(stream, outputs->at(output.name).data(), outputs->at(output.name).size());
    std::printf("\t%s %" PRId64 " %" PRId64, output.name.c_str(), output.rows, output.columns);
  }
  std::printf("\n");
}

void route(const vmoe::Engine& engine, const Fields& fields) {
  ImageFile file = read_images(fields, engine.info());
  file.images.data = file.bytes.data();
  const auto layers = engine.routing(file.images, read_setting(fields));
  if (!layers) return print_error(layers.error());
  std::ofstream stream(fields[11], std::ios::binary);
  std::printf("ok");
  for (const auto& layer : *layers) {
    const int64_t shape[] = {layer.kind,    layer.groups, layer.tokens,    layer.choices,
                             layer.experts, layer.slots,  layer.grid.rows, layer.grid.columns};
    write(stream, shape, std::size(shape));
    write_sized(stream, layer.expert);
    write_sized(stream, layer.kept);
    write_sized(stream, layer.weight);
    write_sized(stream, layer.dispatch);
    write_sized(stream, layer.combine);
    write_sized(stream, layer.token);
    write_sized(stream, layer.patch_mask());
    std::printf("\t%s", layer.layer.c_str());
  }
  std::printf("\n");
}

void answer(const vmoe::Engine& engine, const Fields& fields) {
  if (fields[0] == "info") return print_info(engine.info());
  if (fields[0] == "warm_up") return warm_up(engine, fields);
  if (fields[0] == "run") return run(engine, fields);
  if (fields[0] == "outputs") return run_outputs(engine, fields);
  if (fields[0] == "routing") return route(engine, fields);
  if (fields[0] == "profiles") {
    std::printf("ok");
    for (const auto& profile : engine.profiles()) print_profile(profile);
  } else {
    const auto profile = engine.setting(read_setting(fields));
    if (!profile) return print_error(profile.error());
    std::printf("ok");
    print_profile(*profile);
  }
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const auto engine = load_engine(argv, std::atoi(argv[3]));
  if (!engine) {
    print_error(engine.error());
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) answer(*engine, split(line));
  return 0;
}
