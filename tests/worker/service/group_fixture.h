#pragma once

// A serving group of real ranks (RankHost, Gloo, Engine service, streams) in one process, with a
// model of one rule in place of weights: after token t comes t + 1.

#include <atomic>
#include <chrono>
#include <filesystem>
#include <map>
#include <thread>

#include "core/base/error.h"
#include "core/rpc/channel.h"
#include "core/rpc/server.h"
#include "core/rpc/status.h"
#include "grpcpp/channel.h"
#include "gtest/gtest.h"
#include "octavo/v1/service/engine.grpc.pb.h"
#include "tests/fakes/eventually.h"
#include "worker/serve/rank_host.h"
#include "worker/service/engine_service.h"
#include "worker/service/follow_streams.h"

namespace octavo {

using std::chrono::milliseconds;
using Steady = std::chrono::steady_clock;

constexpr int64_t kVocab = 1000;

class Cluster;
struct Rank {
  Rank(Cluster* cluster, size_t index);
  Metrics metrics{MetricHome::kWorker, "worker"};
  std::atomic<bool> stuck = false;
  std::atomic<float> certainty = 9.0f;
  std::atomic<milliseconds> step_time = milliseconds(1);
  std::atomic<milliseconds> late = milliseconds(0);  // at the barrier of every step
  std::unique_ptr<RankHost> host;
  std::unique_ptr<grpc::Service> service;
  std::unique_ptr<RpcServer> server;
};

// Plays the coordinator: rendezvous and reports.
class Cluster {
 public:
  explicit Cluster(size_t size) {
    char dir[] = "/tmp/octavo_group_XXXXXX";
    dir_ = mkdtemp(dir);
    for (size_t i = 0; i < size; ++i) ranks.push_back(std::make_unique<Rank>(this, i));
  }
  ~Cluster() {
    for (auto& rank : ranks) rank->host->Detached();
    for (auto& rank : ranks) rank->server.reset();
    for (auto& rank : ranks) rank->host.reset();
    std::filesystem::remove_all(dir_);
  }

  void Load(uint64_t epoch) {
    for (size_t i = 0; i < ranks.size(); ++i) {
      v1::LoadRank load;
      load.set_group_epoch(epoch);
      load.set_model_id("rule");
      load.set_model_dir(dir_);
      load.set_rank(static_cast<uint32_t>(i));
      v1::ServePlan& plan = *load.mutable_plan();
      plan.set_rank_count(static_cast<uint32_t>(ranks.size()));
      plan.set_max_model_len(4096);
      plan.set_max_batched_tokens(256);
      plan.set_max_sequences(4);
      plan.mutable_model()->set_vocab_size(kVocab);
      for (size_t rank = 0; rank < ranks.size(); ++rank) plan.add_ranks();
      for (auto& rank : ranks) load.add_engine_addresses(rank->server->address());
      ranks[i]->host->Load(load);
    }
  }

  void Abort(uint64_t epoch) {
    v1::AbortGroup abort;
    abort.set_group_epoch(epoch);
    abort.set_why("rank 1 was lost");
    for (auto& rank : ranks) rank->host->AbortGroup(abort);
  }

  void Hear(size_t from, const v1::Report& report) {
    std::vector<std::pair<size_t, v1::RendezvousValue>> answers;
    {
      MutexLock lock(mutex_);
      if (report.has_rank()) ++states_[{report.rank().group_epoch(), report.rank().state()}];
      if (report.has_put()) {
        values_[{report.put().group_epoch(), report.put().key()}] = report.put().value();
      }
      if (report.has_get()) waiting_.emplace_back(from, report.get());
      std::erase_if(waiting_, [&](const auto& wait) {
        const auto it = values_.find({wait.second.group_epoch(), wait.second.key()});
        if (it == values_.end()) return false;
        v1::RendezvousValue value;
        value.set_group_epoch(wait.second.group_epoch());
        value.set_call(wait.second.call());
        value.set_value(it->second);
        answers.emplace_back(wait.first, value);
        return true;
      });
    }
    for (const auto& [to, value] : answers) ranks[to]->host->Deliver(value);
  }

  int Count(uint64_t epoch, v1::RankState state) {
    MutexLock lock(mutex_);
    return states_[{epoch, state}];
  }

  bool Ready(uint64_t epoch) {
    return Eventually(
        [&] { return Count(epoch, v1::RANK_READY) == static_cast<int>(ranks.size()); });
  }

  void Drain(uint64_t epoch) {
    v1::DrainRank drain;
    drain.set_group_epoch(epoch);
    ranks[0]->host->Drain(drain);
  }

  std::unique_ptr<v1::Engine::Stub> Leader() {
    return v1::Engine::NewStub(MakeChannel(ranks[0]->server->address(), "t"));
  }

  const std::string& dir() const { return dir_; }
  std::vector<std::unique_ptr<Rank>> ranks;

 private:
  std::string dir_;
  Mutex mutex_;
  std::map<std::pair<uint64_t, std::string>, std::string> values_;
  std::vector<std::pair<size_t, v1::RendezvousGet>> waiting_;
  std::map<std::pair<uint64_t, v1::RankState>, int> states_;
};

inline absl::Status RunRule(const Rank& rank, Communicator& group, const v1::Step& step,
                            Logits* out) {
  while (rank.stuck) std::this_thread::sleep_for(milliseconds(1));
  if (const milliseconds late = rank.late; late.count() > 0) std::this_thread::sleep_for(late);
  if (absl::Status met = group.Barrier(); !met.ok()) return met;
  const milliseconds pause = rank.step_time;
  if (pause.count() > 0) std::this_thread::sleep_for(pause);
  *out = {.rows = 0, .vocab = kVocab, .values = {}};
  for (const v1::StepChunk& chunk : step.chunks()) {
    for (int i = 0; i < chunk.tokens_size(); ++i) {
      if (!chunk.logits_all() && !(chunk.logits_last() && i + 1 == chunk.tokens_size())) continue;
      std::vector<float> row(kVocab);
      row[static_cast<size_t>((chunk.tokens(i) + 1) % kVocab)] = rank.certainty;
      out->values.insert(out->values.end(), row.begin(), row.end());
      ++out->rows;
    }
  }
  return absl::OkStatus();
}

inline Rank::Rank(Cluster* cluster, size_t index) {
  RankHost::Options options;
  options.host = "127.0.0.1";
  options.load = [this](const v1::LoadRank&, Communicator* group) -> absl::StatusOr<RankModel> {
    return RankModel{
        .run = [this, group](const v1::Step& step,
                             Logits* out) { return RunRule(*this, *group, step, out); },
        .kv_block_count = 128,
        .weight_bytes = {.bf16 = 7, .fp8 = 5}};
  };
  options.grace = milliseconds(400);
  options.link = [](const std::vector<std::string>& addresses) {
    return MakeFollowerLink(addresses, "t");
  };
  host = std::make_unique<RankHost>(
      std::move(options),
      [cluster, index](const v1::Report& report) { cluster->Hear(index, report); }, &metrics);
  service = MakeEngineService(host.get(), &metrics, "t");
  grpc::Service* services[] = {service.get()};
  server = *RpcServer::Start({}, services);
}

struct Answer {
  std::vector<int32_t> ids;
  v1::FinishReason finish = v1::FINISH_UNSPECIFIED;
  absl::Status status;
};

inline Answer Generate(v1::Engine::Stub& stub, int32_t first, uint32_t count,
                       grpc::ClientContext* context = nullptr, std::atomic<int>* seen = nullptr,
                       const std::string& id = "", uint64_t epoch = 0) {
  grpc::ClientContext own;
  if (context == nullptr) context = &own;
  v1::EngineRequest request;
  request.add_prompt(first);
  request.set_max_tokens(count);
  request.set_request_id(id);
  request.set_note(id);
  request.set_group_epoch(epoch);
  auto reader = stub.Generate(context, request);
  Answer answer;
  v1::EngineEvent event;
  while (reader->Read(&event)) {
    for (const auto& token : event.tokens()) answer.ids.push_back(token.id());
    if (seen != nullptr) *seen = static_cast<int>(answer.ids.size());
    answer.finish = event.finish();
  }
  answer.status = FromGrpc(reader->Finish());
  return answer;
}

// A generation on a thread of its own, so that a test can do something to its group meanwhile.
class Stream {
 public:
  Stream(v1::Engine::Stub& stub, uint32_t count, const std::string& id = "", uint64_t epoch = 0)
      : client_([this, &stub, count, id, epoch] {
          answer_ = Generate(stub, 1, count, &context_, &seen_, id, epoch);
        }) {}

  // Waits for its first tokens.
  bool Begins() {
    return Eventually([this] { return seen_ > 5; });
  }
  int seen() const { return seen_; }
  void Cancel() { context_.TryCancel(); }
  const Answer& Wait() {
    if (client_.joinable()) client_.join();
    return answer_;
  }

 private:
  grpc::ClientContext context_;
  std::atomic<int> seen_ = 0;
  Answer answer_;
  std::jthread client_;
};

}  // namespace octavo
