#pragma once

// Writes small quantized folders in any dialect for tests: the codes are noise, the scales are
// positive.

#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/dialect.h"
#include "core/checkpoint/index.h"
#include "core/checkpoint/safetensors.h"
#include "core/scheme/recipe.h"
#include "core/tensor/dtype_proto.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_llama.h"

namespace octavo {

// What `recipe` would make of the checkpoint in `source`, in as many shards.
inline void WriteQuantized(const std::string& source, const v1::Recipe& recipe,
                           const std::filesystem::path& dir) {
  std::filesystem::create_directories(dir);
  const auto checkpoint = OpenCheckpoint(source);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto schemes = ResolveSchemes(recipe, checkpoint->tensors);
  ASSERT_TRUE(schemes.ok()) << schemes.status();
  const std::string& dialect = recipe.dialect();
  std::map<std::string, std::vector<NewTensor>> files;
  for (size_t i = 0; i < schemes->size(); ++i) {
    const v1::ModelTensor& tensor = checkpoint->tensors[i];
    const v1::TensorSpec& spec = tensor.spec();
    std::vector<NewTensor>& inside = files[spec.file()];
    const auto add = [&](const ScaleShape& scale) {
      inside.push_back({scale.name, scale.dtype, scale.shape});
    };
    NewTensor codes{
        spec.name(), FromProto(spec.dtype()), {spec.shape().begin(), spec.shape().end()}};
    if (const v1::Scheme* scheme = (*schemes)[i].scheme) {
      codes.name = CodesNameOf(tensor);
      codes.dtype = CodeDType(scheme->weight().type());
      add(WeightScaleOf(dialect, checkpoint->model, tensor, scheme->weight()));
      if (HasStaticInput(*scheme)) add(InputScaleOf(dialect, checkpoint->model, tensor));
    }
    inside.push_back(codes);
    if (!recipe.has_kv_cache()) continue;
    for (const CacheScale& cache : CacheScalesOf(dialect, tensor)) add(cache.scale);
  }
  std::mt19937 random(7);
  TensorIndex index;
  for (const auto& [name, inside] : files) {
    const BuiltHeader header = BuildHeader(inside, name);
    std::string bytes = header.bytes;
    for (const v1::TensorSpec& spec : header.tensors) {
      index.weight_map[spec.name()] = name;
      index.total_size += spec.end() - spec.begin();
      const DType dtype = FromProto(spec.dtype());
      while (bytes.size() < spec.end()) {
        if (IsSourceFloat(dtype)) {
          AppendValue(dtype, 0.5f + static_cast<float>(random() % 1024) / 2048, &bytes);
        } else {
          bytes += static_cast<char>(random() % 0x7f);
        }
      }
    }
    WriteText(dir / name, bytes);
  }
  if (files.size() > 1) WriteText(dir / std::string(kIndexFileName), BuildIndex(index));
  WriteText(dir / "config.json",
            QuantizedConfigText(
                checkpoint->config,
                QuantizationConfigJson(recipe, checkpoint->model, checkpoint->tensors, *schemes)));
  WriteText(dir / "tokenizer.json", "{\"version\": \"1.0\"}\n");
}

}  // namespace octavo
