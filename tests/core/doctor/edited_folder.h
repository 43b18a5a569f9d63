#pragma once

// A quantized folder that tests change before it is written: tensors by name, config.json as a
// tree.

#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/checkpoint/safetensors.h"
#include "core/doctor/diagnosis.h"
#include "core/store/local_store.h"
#include "core/tensor/dtype_proto.h"
#include "nlohmann/json.hpp"
#include "tests/core/checkpoint/quantized_folder.h"
#include "tests/fakes/tiny_llama.h"

namespace octavo {

struct EditedTensor {
  DType dtype = DType::kInvalid;
  std::vector<int64_t> shape;
  std::string bytes;
};

struct EditedFolder {
  std::map<std::string, EditedTensor> tensors;
  nlohmann::ordered_json config;

  nlohmann::ordered_json& Quantization() { return config["quantization_config"]; }
  EditedTensor& At(const std::string& name) {
    EXPECT_TRUE(tensors.contains(name)) << name;
    return tensors[name];
  }
  void Drop(const std::string& name) { EXPECT_EQ(tensors.erase(name), 1u) << name; }
  // All of a float tensor.
  void Fill(const std::string& name, float value) {
    EditedTensor& tensor = At(name);
    const size_t count = tensor.bytes.size() / static_cast<size_t>(ByteSize(tensor.dtype));
    tensor.bytes.clear();
    for (size_t i = 0; i < count; ++i) AppendValue(tensor.dtype, value, &tensor.bytes);
  }
  void Put(const std::string& name, DType dtype, std::vector<int64_t> shape) {
    uint64_t count = 1;
    for (const int64_t size : shape) count *= static_cast<uint64_t>(size);
    EditedTensor& tensor = tensors[name] = {dtype, std::move(shape), ""};
    if (dtype == DType::kF64) {
      const double half = 0.5;
      const std::string one(reinterpret_cast<const char*>(&half), sizeof half);
      for (uint64_t i = 0; i < count; ++i) tensor.bytes += one;
    } else if (IsSourceFloat(dtype)) {
      for (uint64_t i = 0; i < count; ++i) AppendValue(dtype, 0.5f, &tensor.bytes);
    } else {
      tensor.bytes.assign(count * static_cast<uint64_t>(ByteSize(dtype)), '\x11');
    }
  }
};

inline EditedFolder LoadFolder(const std::filesystem::path& dir) {
  EditedFolder folder;
  folder.config = nlohmann::ordered_json::parse(ReadText(dir / "config.json"));
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.path().extension() != ".safetensors") continue;
    const std::string bytes = ReadText(entry.path());
    const auto specs = ParseHeader(bytes, bytes.size(), entry.path().filename().string());
    EXPECT_TRUE(specs.ok()) << specs.status();
    for (const v1::TensorSpec& spec : *specs) {
      folder.tensors[spec.name()] = {FromProto(spec.dtype()),
                                     {spec.shape().begin(), spec.shape().end()},
                                     bytes.substr(spec.begin(), spec.end() - spec.begin())};
    }
  }
  return folder;
}

// One file of weights, config.json, and a tokenizer.json that nobody reads.
inline void SaveFolder(const EditedFolder& folder, const std::filesystem::path& dir) {
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  std::vector<NewTensor> inside;
  for (const auto& [name, tensor] : folder.tensors) {
    inside.push_back({name, tensor.dtype, tensor.shape});
  }
  const BuiltHeader header = BuildHeader(inside, "model.safetensors");
  std::string bytes = header.bytes;
  for (const v1::TensorSpec& spec : header.tensors) bytes += folder.tensors.at(spec.name()).bytes;
  WriteText(dir / "model.safetensors", bytes);
  WriteText(dir / "config.json", folder.config.dump(2));
  WriteText(dir / "tokenizer.json", "{}");
  WriteText(dir / "generation_config.json", "{}");
}

// A folder, and what doctor says of it.
struct Examined {
  Folder folder;
  Diagnosis diagnosis;
  std::set<std::string> codes;
};

inline Examined Examine(const std::string& dir) {
  auto folder = ReadFolder(LocalStore(), dir, Depth::kValues);
  EXPECT_TRUE(folder.ok()) << folder.status();
  Examined examined = {*std::move(folder), {}, {}};
  examined.diagnosis = Diagnose(examined.folder);
  for (const Finding& finding : examined.diagnosis.findings) {
    EXPECT_FALSE(finding.what.empty());
    EXPECT_FALSE(finding.tensor.empty() && finding.key.empty() && finding.file.empty());
    examined.codes.emplace(RuleOf(finding.symptom).code);
  }
  return examined;
}

}  // namespace octavo
