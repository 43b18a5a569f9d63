#pragma once

// Runs a parsed template: statements write text, expressions give values, in the frames of the
// functions being called.

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/text/jinja/ast.h"
#include "core/text/jinja/budget.h"
#include "core/text/jinja/state.h"

namespace octavo::jinja {

// What a template is given: names and values.
using Variables = std::vector<std::pair<std::string, Value>>;

// The variables of one call of a function.
struct Frame {
  Frame* outer = nullptr;  // of the function that this one stands in
  std::vector<Value> slots = {};
  bool captured = false;  // a macro or loop that refers to it may outlive the call
};

// A macro as a value: its body, and the frame it stands in.
struct MacroData {
  const MacroBody* body;
  Frame* frame;
};

// `loop` as a value, with what calling it again takes.
struct LoopRun : LoopState {
  LoopRun(LoopState state, const For* node, Frame* around)
      : LoopState(std::move(state)), loop(node), frame(around) {}
  const For* loop;
  Frame* frame;  // that the loop stands in
};

// One rendering. Everything that values point to lives as long as this.
class Evaluator {
 public:
  // REQUIRES: all outlive it.
  Evaluator(const Program& program, const Variables& variables, Budget* budget, int64_t now_ns);

  // Errors: kBadRequest, "line N: ...".
  absl::StatusOr<std::string> Run();

 private:
  enum class Flow { kOn, kBreak, kContinue };
  using Result = absl::StatusOr<Value>;

  // Statements (statements.cc).
  absl::Status RunBody(const Body& body);
  absl::Status RunStatement(const Statement& statement);
  absl::Status Visit(const Output& node);
  absl::Status Visit(const If& node);
  absl::Status Visit(const For& node);
  absl::Status Visit(const Set& node);
  absl::Status Visit(const SetBlock& node);
  absl::Status Visit(const FilterBlock& node);
  absl::Status Visit(const With& node);
  absl::Status Visit(const Macro& node);
  absl::Status Visit(const CallBlock& node);
  absl::Status Visit(const Break&);
  absl::Status Visit(const Continue&);
  absl::Status RunLoop(const For& node, const Value& iterable, int64_t depth0);
  // The elements of `iterable` that pass the test of the loop.
  Result TestedElements(const For& node, const Value& iterable);
  absl::Status Append(std::string_view text);
  // What a body writes, as text.
  absl::StatusOr<std::string> Capture(const Body& body);

  // Variables (statements.cc).
  Frame* FrameOf(Place place);
  Value& SlotOf(Place place);
  void EnterScope(const ScopeStart& start);
  Value FromContext(std::string_view name) const;
  absl::Status Assign(const Target& target, const Value& value);

  // Calls (calls.cc).
  absl::StatusOr<Arguments> Evaluate(const CallArguments& arguments);
  Result CallValue(const Value& callee, Arguments arguments);
  Result CallMacro(const MacroData& macro, Arguments arguments);
  absl::Status BindParameters(const MacroBody& macro, Arguments arguments);
  Result CallLoop(LoopState* loop, const Arguments& arguments);
  const MacroData* MakeMacro(const MacroBody& body);
  // A frame for one call, standing in `outer`, current until the call ends.
  class Activation;

  // Expressions (evaluator.cc).
  Result Evaluate(const Expr& expr);
  Result Visit(const Literal& node);
  Result Visit(const Name& node);
  Result Visit(const Unary& node);
  Result Visit(const Binary& node);
  Result Visit(const Logical& node);
  Result Visit(const Concat& node);
  Result Visit(const Compare& node);
  Result Visit(const Conditional& node);
  Result Visit(const AttributeOf& node);
  Result Visit(const ItemOf& node);
  Result Visit(const SliceOf& node);
  Result Visit(const ListOf& node);
  Result Visit(const DictOf& node);
  Result Visit(const Call& node);
  Result Visit(const Apply& node);
  Result Visit(const BlockText& node);

  // One level of expressions and statements. Errors get the line of the innermost.
  absl::Status Enter();
  absl::Status At(int line, absl::Status status);

  const Program& program_;
  const Variables& variables_;
  Budget& budget_;
  std::deque<NamespaceData> namespaces_;
  NativeContext context_;
  std::deque<MacroData> macros_;
  std::deque<LoopRun> loops_;
  std::vector<std::unique_ptr<Frame>> kept_frames_;
  Frame* frame_ = nullptr;
  std::string* out_ = nullptr;
  std::vector<Value> block_texts_;  // of the filter and set blocks being evaluated
  Flow flow_ = Flow::kOn;
  int level_ = 0;
  bool located_ = false;  // whether the error on its way has its line
};

}  // namespace octavo::jinja
