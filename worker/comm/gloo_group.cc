#include "worker/comm/gloo_group.h"

#include <cstring>
#include <exception>
#include <vector>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "gloo/rendezvous/context.h"
#include "gloo/rendezvous/store.h"
#include "gloo/transport/tcp/device.h"
#include "gloo/transport/unbound_buffer.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using UnboundBuffer = gloo::transport::UnboundBuffer;

absl::Status Lost(std::string_view what) { return MakeError(Reason::kGroupLost, what); }

// Gloo's rendezvous over the two callbacks. Throws, as Gloo expects of a store.
class CallbackStore final : public gloo::rendezvous::Store {
 public:
  CallbackStore(const Rendezvous& rendezvous, milliseconds timeout)
      : rendezvous_(rendezvous), timeout_(timeout) {}

  void set(const std::string& key, const std::vector<char>& data) override {
    Throw(rendezvous_.put(key, std::string(data.begin(), data.end())));
  }
  std::vector<char> get(const std::string& key) override {
    auto value = rendezvous_.get(key, timeout_);
    Throw(value.status());
    return {value->begin(), value->end()};
  }
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys, const milliseconds& timeout) override {
    for (const std::string& key : keys) {
      Throw(rendezvous_.get(key, std::min(timeout, timeout_)).status());
    }
  }

 private:
  static void Throw(const absl::Status& status) {
    if (!status.ok()) throw std::runtime_error(std::string(status.message()));
  }
  const Rendezvous& rendezvous_;
  const milliseconds timeout_;
};

class GlooGroup final : public Communicator {
 public:
  GlooGroup(std::shared_ptr<gloo::rendezvous::Context> context)
      : context_(std::move(context)), timeout_(std::chrono::seconds(kCollectiveTimeoutSeconds)) {}

  ~GlooGroup() override { Abort("the group was freed"); }

  int rank() const override { return context_->rank; }
  int size() const override { return context_->size; }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    OCTAVO_CHECK(all.size() == mine.size() * static_cast<size_t>(size()));
    std::byte* own = all.data() + mine.size() * static_cast<size_t>(rank());
    if (own != mine.data() && !mine.empty()) std::memcpy(own, mine.data(), mine.size());
    return Exchange(
        all,
        [&](UnboundBuffer& out, UnboundBuffer& in, uint64_t slot) {
          for (int peer = 0; peer < size(); ++peer) {
            if (peer == rank()) continue;
            in.recv(peer, slot, mine.size() * static_cast<size_t>(peer), mine.size());
          }
          for (int peer = 0; peer < size(); ++peer) {
            if (peer == rank()) continue;
            out.send(peer, slot, mine.size() * static_cast<size_t>(rank()), mine.size());
          }
        },
        size() - 1, size() - 1);
  }

  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    const bool mine = rank() == root;
    return Exchange(
        data,
        [&](UnboundBuffer& out, UnboundBuffer& in, uint64_t slot) {
          if (!mine) return in.recv(root, slot, 0, data.size());
          for (int peer = 0; peer < size(); ++peer) {
            if (peer != root) out.send(peer, slot, 0, data.size());
          }
        },
        mine ? size() - 1 : 0, mine ? 0 : 1);
  }

  absl::Status Barrier() override {
    std::byte token{1};
    barrier_.resize(static_cast<size_t>(size()));
    return AllGather(std::span(&token, 1), barrier_);
  }

  void Abort(const std::string& why) override {
    MutexLock lock(mutex_);
    if (failure_.ok()) failure_ = Lost(why);
    if (out_ != nullptr) out_->abortWaitSend();
    if (in_ != nullptr) in_->abortWaitRecv();
    Close();
  }

 private:
  // Runs one collective on buffers over `bytes`: post, then wait for the given numbers of sends and
  // receives. The buffers are visible to Abort meanwhile.
  template <typename Post>
  absl::Status Exchange(std::span<std::byte> bytes, Post post, int sends, int receives) {
    if (bytes.empty() || size() == 1) return Failure();
    try {
      const uint64_t slot = ++slot_;
      auto out = context_->createUnboundBuffer(bytes.data(), bytes.size());
      auto in = context_->createUnboundBuffer(bytes.data(), bytes.size());
      // Hides the buffers from Abort before they die, on every way out.
      struct Hide {
        GlooGroup* group;
        ~Hide() { (void)group->Show(nullptr, nullptr); }
      } hide{this};
      OCTAVO_RETURN_IF_ERROR(Show(out.get(), in.get()));
      post(*out, *in, slot);
      bool whole = true;
      for (int i = 0; whole && i < receives; ++i) whole = in->waitRecv(nullptr, timeout_);
      for (int i = 0; whole && i < sends; ++i) whole = out->waitSend(nullptr, timeout_);
      if (!whole) Fail("a rank of the group is gone: the collective was aborted");
    } catch (const std::exception& error) {
      Fail(fmt::format("a rank of the group is gone: {}", error.what()));
    }
    return Failure();
  }

  absl::Status Show(UnboundBuffer* out, UnboundBuffer* in) {
    MutexLock lock(mutex_);
    out_ = out;
    in_ = in;
    return failure_;
  }

  absl::Status Failure() {
    MutexLock lock(mutex_);
    return failure_;
  }

  // The first failure stays; the connections close so that peers fail too.
  void Fail(const std::string& why) {
    MutexLock lock(mutex_);
    if (failure_.ok()) failure_ = Lost(why);
    Close();
  }

  // REQUIRES mutex_ held.
  void Close() {
    if (closed_) return;
    closed_ = true;
    try {
      context_->closeConnections();
    } catch (const std::exception&) {
      // A pair that is broken already cannot be closed again; that is what was wanted.
    }
  }

  std::shared_ptr<gloo::rendezvous::Context> context_;
  const milliseconds timeout_;
  uint64_t slot_ = 0;
  std::vector<std::byte> barrier_;
  Mutex mutex_;
  absl::Status failure_;
  bool closed_ = false;
  UnboundBuffer* out_ = nullptr;
  UnboundBuffer* in_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MakeGlooGroup(const GroupOptions& options,
                                                            const Rendezvous& rendezvous) {
  try {
    gloo::transport::tcp::attr attr;
    attr.hostname = options.host;
    std::shared_ptr<gloo::transport::Device> device = gloo::transport::tcp::CreateDevice(attr);
    auto context = std::make_shared<gloo::rendezvous::Context>(options.rank, options.size);
    // A pair waits five times this long for its peer.
    context->setTimeout(options.connect_timeout / 5);
    CallbackStore store(rendezvous, options.connect_timeout);
    if (options.size > 1) context->connectFullMesh(store, device);
    return std::make_unique<GlooGroup>(std::move(context));
  } catch (const std::exception& error) {
    return Lost(fmt::format("rank {} of {} cannot join its group from {}: {}", options.rank,
                            options.size, options.host, error.what()));
  }
}

}  // namespace octavo
