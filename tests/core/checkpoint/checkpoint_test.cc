#include "core/checkpoint/checkpoint.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>

#include "core/base/error.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/index.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/summary.h"
#include "core/model/family.h"
#include "core/store/local_store.h"
#include "tests/fakes/faulty_store.h"
#include "tests/fakes/memory_store.h"

namespace octavo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A checkpoint as data that tests bend before it is written.
struct Folder {
  Folder() {
    model.set_family("llama");
    model.set_hidden_size(8);
    model.set_intermediate_size(16);
    model.set_layer_count(2);
    model.set_head_count(2);
    model.set_kv_head_count(1);
    model.set_head_dim(4);
    model.set_vocab_size(12);
    model.set_max_position(32);
    model.set_norm_eps(1e-5);
    model.set_rope_theta(1e4);
    model.set_dtype(v1::BF16);
    const std::vector<ExpectedTensor> expected = *ExpectedTensors(model);
    for (size_t i = 0; i < expected.size(); ++i) {
      const int shard = i < 9 ? 1 : 2;
      shards[ShardName(shard, 2)].push_back({expected[i].name, DType::kBF16, expected[i].shape});
      index.weight_map[expected[i].name] = ShardName(shard, 2);
    }
    files["config.json"] = ConfigText(model);
    files["tokenizer.json"] = "{}";
    for (const char* about : {"README.md", "octavo_manifest.json", "octavo_report.json"}) {
      files[about] = "of another folder";
    }
  }

  absl::StatusOr<Checkpoint> Open(Accept accept = Accept::kPlainOrQuantized) {
    Write();
    return OpenCheckpoint(store, "d", accept);
  }
  void Write() {
    for (const auto& [name, tensors] : shards) {
      const BuiltHeader built = BuildHeader(tensors, name);
      store.Put("d/" + name, built.bytes + std::string(built.file_size - built.bytes.size(), '\0'));
    }
    if (with_index) store.Put("d/model.safetensors.index.json", BuildIndex(index));
    for (const auto& [name, text] : files) store.Put("d/" + name, text);
  }
  NewTensor& Find(const std::string& name) {
    for (auto& [file, tensors] : shards) {
      for (NewTensor& tensor : tensors) {
        if (tensor.name == name) return tensor;
      }
    }
    ADD_FAILURE() << name;
    return shards.begin()->second.front();
  }

  v1::ModelSpec model;
  std::map<std::string, std::vector<NewTensor>> shards;
  TensorIndex index;
  bool with_index = true;
  std::map<std::string, std::string> files;
  MemoryStore store;
};

TEST(OpenCheckpointTest, ReadsShardsInModelOrder) {
  Folder folder;
  const auto checkpoint = folder.Open(Accept::kPlainOnly);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE(checkpoint->quantized);
  ASSERT_EQ(checkpoint->tensors.size(), 1u + 2 * 9 + 2);
  EXPECT_EQ(checkpoint->tensors.front().role(), v1::EMBEDDING);
  EXPECT_EQ(checkpoint->tensors[1].role(), v1::ATTENTION_NORM);
  EXPECT_EQ(checkpoint->tensors[10].layer(), 1);
  EXPECT_EQ(checkpoint->tensors.back().role(), v1::LM_HEAD);
  ASSERT_EQ(checkpoint->files.size(), 2u);
  EXPECT_EQ(checkpoint->files[0].name(), "model-00001-of-00002.safetensors");
  EXPECT_NE(checkpoint->files[0].mtime_ns(), 0);
  EXPECT_NE(checkpoint->files[0].header_digest().low(), 0u);
  EXPECT_THAT(checkpoint->side_files, ElementsAre("tokenizer.json"));
  EXPECT_EQ(checkpoint->config["hidden_size"], 8);
}

TEST(OpenCheckpointTest, ReadsASingleFile) {
  Folder folder;
  folder.with_index = false;
  std::vector<NewTensor> all;
  for (auto& [name, tensors] : folder.shards) all.insert(all.end(), tensors.begin(), tensors.end());
  folder.shards = {{"model.safetensors", all}};
  const auto checkpoint = folder.Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->files.size(), 1u);
}

TEST(OpenCheckpointTest, DtypeFallsBackToTheWeights) {
  Folder folder;
  folder.model.clear_dtype();
  folder.files["config.json"] = ConfigText(folder.model);
  const auto checkpoint = folder.Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->model.dtype(), v1::BF16);
}

TEST(OpenCheckpointTest, StrayTensorsThatAreKnownToBeUselessAreIgnored) {
  Folder folder;
  const std::string stray = "model.layers.0.self_attn.rotary_emb.inv_freq";
  folder.shards.begin()->second.push_back({stray, DType::kF32, {2}});
  folder.index.weight_map[stray] = folder.shards.begin()->first;
  folder.model.set_tied_embeddings(true);  // then the head is one too
  folder.files["config.json"] = ConfigText(folder.model);
  const auto checkpoint = folder.Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto& tensors = checkpoint->tensors;
  EXPECT_EQ(tensors[tensors.size() - 2].role(), v1::IGNORED);
  EXPECT_EQ(tensors.back().spec().name(), stray);
}

TEST(OpenCheckpointTest, QuantizedFoldersOpenForServingOnly) {
  Folder folder;
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(folder.files["config.json"]);
  config["quantization_config"] = {{"quant_method", "compressed-tensors"}};
  folder.files["config.json"] = config.dump();
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  folder.Find(name).dtype = DType::kF8E4M3;
  folder.shards.rbegin()->second.push_back({name + "_scale", DType::kBF16, {16, 1}});
  folder.index.weight_map[name + "_scale"] = folder.shards.rbegin()->first;
  const auto checkpoint = folder.Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(checkpoint->quantized);
  EXPECT_EQ(checkpoint->tensors.back().spec().name(), name + "_scale");
  EXPECT_EQ(checkpoint->tensors.back().role(), v1::IGNORED);
  EXPECT_EQ(checkpoint->tensors.back().layer(), 1);
  const auto plain = folder.Open(Accept::kPlainOnly);
  EXPECT_EQ(ReasonOf(plain.status()), Reason::kUnsupported);
  EXPECT_THAT(std::string(plain.status().message()), HasSubstr("original"));
}

struct Wrong {
  const char* what;
  Reason reason;
  void (*bend)(Folder&);
};

const Wrong kWrongFolders[] = {
    {"no config.json", Reason::kInputMissing, [](Folder& f) { f.files.erase("config.json"); }},
    {"no safetensors files", Reason::kInputMissing,
     [](Folder& f) {
       f.shards.clear();
       f.with_index = false;
     }},
    {"pickled", Reason::kUnsupported,
     [](Folder& f) {
       f.shards.clear();
       f.with_index = false;
       f.files["pytorch_model.bin"] = "x";
     }},
    {"octavo import", Reason::kUnsupported,
     [](Folder& f) {
       f.shards.clear();
       f.with_index = false;
       f.files = {{"m.gguf", "x"}};
     }},
    {"index.json is missing", Reason::kBadCheckpoint, [](Folder& f) { f.with_index = false; }},
    {"not there", Reason::kInputMissing,
     [](Folder& f) { f.shards.erase("model-00002-of-00002.safetensors"); }},
    {"names nothing in this file", Reason::kBadCheckpoint,
     [](Folder& f) { f.shards["model-00003-of-00003.safetensors"] = {}; }},
    {"not in the index", Reason::kBadCheckpoint,
     [](Folder& f) { f.index.weight_map.erase("model.norm.weight"); }},
    {"does not hold", Reason::kBadCheckpoint,
     [](Folder& f) { f.index.weight_map["model.layers.2.mlp.up_proj.weight"] = ShardName(1, 2); }},
    {"says the tensor is in", Reason::kBadCheckpoint,
     [](Folder& f) { f.index.weight_map["model.norm.weight"] = ShardName(1, 2); }},
    {"says the tensor is in", Reason::kBadCheckpoint,  // in two shards
     [](Folder& f) {
       f.shards[ShardName(1, 2)].push_back({"model.norm.weight", DType::kBF16, {8}});
     }},
    {"tensor is missing", Reason::kBadCheckpoint,
     [](Folder& f) {
       auto& tensors = f.shards[ShardName(2, 2)];
       std::erase_if(tensors, [](const NewTensor& t) { return t.name == "model.norm.weight"; });
       f.index.weight_map.erase("model.norm.weight");
     }},
    {"no place", Reason::kBadCheckpoint,
     [](Folder& f) {
       f.shards[ShardName(1, 2)].push_back({"model.vision.weight", DType::kBF16, {8}});
       f.index.weight_map["model.vision.weight"] = ShardName(1, 2);
     }},
    {"no place", Reason::kBadCheckpoint,  // a scale without a quantization_config
     [](Folder& f) {
       f.shards[ShardName(1, 2)].push_back({"model.norm.weight_scale", DType::kBF16, {8}});
       f.index.weight_map["model.norm.weight_scale"] = ShardName(1, 2);
     }},
    {"no place", Reason::kBadCheckpoint,  // a bias that config.json does not announce
     [](Folder& f) {
       f.shards[ShardName(1, 2)].push_back(
           {"model.layers.0.self_attn.q_proj.bias", DType::kBF16, {8}});
       f.index.weight_map["model.layers.0.self_attn.q_proj.bias"] = ShardName(1, 2);
     }},
    {"outside the 1 layers", Reason::kBadCheckpoint,
     [](Folder& f) {
       f.model.set_layer_count(1);
       f.files["config.json"] = ConfigText(f.model);
     }},
    {"model.layers.2.", Reason::kBadCheckpoint,
     [](Folder& f) {
       f.model.set_layer_count(4000);
       f.files["config.json"] = ConfigText(f.model);
     }},
    {"shape [8, 7] is not [8, 8]", Reason::kBadCheckpoint,
     [](Folder& f) {
       f.Find("model.layers.0.self_attn.q_proj.weight").shape = {8, 7};
     }},
    {"dtype I8", Reason::kUnsupported,
     [](Folder& f) { f.Find("model.layers.0.mlp.up_proj.weight").dtype = DType::kI8; }},
    {"generation_config.json", Reason::kBadCheckpoint,
     [](Folder& f) { f.files["generation_config.json"] = "["; }},
    {"too few", Reason::kBadCheckpoint,
     [](Folder& f) {
       f.shards.erase(ShardName(1, 2));
       f.files[ShardName(1, 2)] = "x";
     }},
};

TEST(OpenCheckpointTest, RefusesWithFileTensorAndCure) {
  for (const Wrong& wrong : kWrongFolders) {
    Folder folder;
    wrong.bend(folder);
    const auto checkpoint = folder.Open();
    ASSERT_FALSE(checkpoint.ok()) << wrong.what;
    EXPECT_EQ(ReasonOf(checkpoint.status()), wrong.reason) << checkpoint.status();
    EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr(wrong.what));
  }
  MemoryStore empty;
  EXPECT_EQ(ReasonOf(OpenCheckpoint(empty, "d", Accept::kPlainOnly).status()),
            Reason::kInputMissing);
}

TEST(OpenCheckpointTest, ReadErrorsComeThrough) {
  for (int nth = 1; nth <= 6; ++nth) {
    Folder folder;
    folder.Write();
    FaultyStore store(&folder.store);
    store.FailAt(FaultyStore::Call::kRead, nth, Reason::kIo);
    const auto checkpoint = OpenCheckpoint(store, "d", Accept::kPlainOnly);
    ASSERT_FALSE(checkpoint.ok()) << nth;
    EXPECT_EQ(ReasonOf(checkpoint.status()), Reason::kIo) << nth;
  }
}

TEST(CheckUnchangedTest, SeesEveryChange) {
  Folder folder;
  const auto checkpoint = folder.Open();
  ASSERT_TRUE(checkpoint.ok());
  const MemoryStore& store = folder.store;
  EXPECT_TRUE(CheckUnchanged(store, "d", checkpoint->files).ok());
  const std::string path = "d/" + checkpoint->files[0].name();
  const std::string bytes = store.Get(path);

  folder.store.Put(path, bytes + "x");
  EXPECT_EQ(ReasonOf(CheckUnchangedQuickly(store, "d", checkpoint->files)), Reason::kSourceChanged);
  folder.store.Put(path, bytes, /*mtime_ns=*/2);
  EXPECT_EQ(ReasonOf(CheckUnchangedQuickly(store, "d", checkpoint->files)), Reason::kSourceChanged);
  std::string other = bytes;
  other.replace(other.find("\"pt\""), 4, "\"tp\"");
  folder.store.Put(path, other);
  EXPECT_TRUE(CheckUnchangedQuickly(store, "d", checkpoint->files).ok());
  EXPECT_EQ(ReasonOf(CheckUnchanged(store, "d", checkpoint->files)), Reason::kSourceChanged);
  folder.store.Put(path, std::string(bytes.size(), 'x'));
  EXPECT_EQ(ReasonOf(CheckUnchanged(store, "d", checkpoint->files)), Reason::kSourceChanged);
  ASSERT_TRUE(folder.store.RemoveTree(path).ok());
  EXPECT_EQ(ReasonOf(CheckUnchanged(store, "d", checkpoint->files)), Reason::kInputMissing);
}

TEST(CheckUnchangedTest, SideFilesCountWhole) {
  Folder folder;
  folder.Write();
  const std::vector<v1::SourceFile> files = {
      *IdentifySideFile(folder.store, "d", "tokenizer.json")};
  EXPECT_TRUE(CheckUnchanged(folder.store, "d", files).ok());
  folder.store.Put("d/tokenizer.json", "[]");
  EXPECT_EQ(ReasonOf(CheckUnchanged(folder.store, "d", files)), Reason::kSourceChanged);
}

TEST(OpenCheckpointTest, WorksOnHubCacheFoldersAndRefusesFifos) {
  namespace fs = std::filesystem;
  std::string root = testing::TempDir() + "octavo-cache-XXXXXX";
  ASSERT_NE(::mkdtemp(root.data()), nullptr);
  Folder folder;
  folder.Write();
  fs::create_directories(root + "/blobs");
  fs::create_directories(root + "/snapshots/abc");
  LocalStore local;
  int number = 0;
  const std::vector<DirEntry> entries = *folder.store.List("d");
  for (const DirEntry& entry : entries) {
    const std::string blob = "blob" + std::to_string(number++);
    ASSERT_TRUE(
        WriteWhole(local, root + "/blobs/" + blob, folder.store.Get("d/" + entry.name)).ok());
    fs::create_symlink("../../blobs/" + blob, root + "/snapshots/abc/" + entry.name);
  }
  const std::string snapshot = root + "/snapshots/abc";
  const auto checkpoint = OpenCheckpoint(snapshot);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->tensors.size(), 21u);
  EXPECT_TRUE(CheckUnchanged(snapshot, checkpoint->files).ok());

  fs::remove(snapshot + "/" + ShardName(1, 2));
  ASSERT_EQ(::mkfifo((snapshot + "/" + ShardName(1, 2)).c_str(), 0600), 0);
  EXPECT_EQ(ReasonOf(OpenCheckpoint(snapshot).status()), Reason::kUnsupported);
  fs::remove_all(root);
}

TEST(SummarizeTest, AddsUp) {
  Folder folder;
  const auto checkpoint = folder.Open();
  ASSERT_TRUE(checkpoint.ok());
  const CheckpointSummary summary = Summarize(*checkpoint);
  uint64_t parameters = 0;
  for (const v1::ModelTensor& tensor : checkpoint->tensors) {
    uint64_t elements = 1;
    for (int64_t dim : tensor.spec().shape()) elements *= static_cast<uint64_t>(dim);
    parameters += elements;
  }
  EXPECT_EQ(summary.tensors, 21u);
  EXPECT_EQ(summary.parameters, parameters);
  EXPECT_EQ(summary.bytes, 2 * parameters);
  EXPECT_GT(summary.file_bytes, summary.bytes);
  ASSERT_EQ(summary.roles.size(), 12u);
  EXPECT_EQ(summary.roles[2].role, v1::Q_PROJ);
  EXPECT_EQ(summary.roles[2].count, 2u);
  EXPECT_EQ(summary.dtypes.size(), 1u);
  EXPECT_EQ(summary.kv_bytes_per_token, 2u * 2 * 1 * 4 * 2);
  // No eos id, no tokenizer_config.json, and seven kinds of matrices that blocks of 128 do not fit.
  EXPECT_EQ(summary.remarks.size(), 9u);
}

TEST(HumanTest, ReadsWell) {
  EXPECT_EQ(HumanBytes(576), "576 B");
  EXPECT_EQ(HumanBytes(uint64_t{128} << 20), "128.0 MiB");
  EXPECT_EQ(HumanBytes(uint64_t{3} << 29), "1.50 GiB");
  EXPECT_EQ(HumanCount(999), "999");
  EXPECT_EQ(HumanCount(134'515'008), "134.5 M");
  EXPECT_EQ(HumanCount(8'030'000'000), "8.03 B");
}

}  // namespace
}  // namespace octavo
