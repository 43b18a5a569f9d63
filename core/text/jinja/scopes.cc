#include "core/text/jinja/scopes.h"

#include "core/base/status.h"
#include "core/text/jinja/lexer.h"
#include "core/text/jinja/symbols.h"
#include "core/text/jinja/walk.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

// What happens to names in a body, without what lies in its inner scopes.
class Collector {
 public:
  explicit Collector(Symbols* symbols) : symbols_(symbols) {}

  void Collect(Body& body) {
    for (Statement& statement : body) {
      std::visit([&](auto& node) { Visit(node); }, statement.node);
    }
  }
  void Collect(Expr& expr) {
    ForEachName(expr, [&](Name& name, int) { symbols_->Load(name.name); });
  }
  void CollectTarget(Target& target, bool parameter) {
    ForEachTargetName(target, [&](Name& name, bool attribute) {
      if (attribute) {
        symbols_->Load(name.name);
      } else if (parameter) {
        symbols_->DeclareParameter(name.name);
      } else {
        symbols_->Store(name.name);
      }
    });
  }

 private:
  void Visit(Output& node) {
    for (ExprPtr& part : node.parts) Collect(*part);
  }
  // The first branch, the rest as one, and the last: each begins where the "if" does.
  void Visit(If& node) {
    Collect(*node.branches[0].first);
    std::vector<Symbols> branches(3, *symbols_);
    Collector(&branches[0]).Collect(node.branches[0].second);
    Collector elif (&branches[1]);
    for (size_t i = 1; i < node.branches.size(); ++i) elif.VisitElif(node.branches[i]);
    Collector(&branches[2]).Collect(node.otherwise);
    symbols_->MergeBranches(branches);
  }
  // An "if" of its own, with no branches but the first.
  void VisitElif(std::pair<ExprPtr, Body>& branch) {
    Collect(*branch.first);
    std::vector<Symbols> branches(3, *symbols_);
    Collector(&branches[0]).Collect(branch.second);
    symbols_->MergeBranches(branches);
  }
  void Visit(For& node) { Collect(*node.iterable); }
  void Visit(Set& node) {
    Collect(*node.value);
    CollectTarget(node.target, false);
  }
  void Visit(SetBlock& node) { CollectTarget(node.target, false); }
  void Visit(FilterBlock& node) { Collect(*node.value); }
  void Visit(With& node) {
    for (auto& [target, value] : node.values) Collect(*value);
  }
  void Visit(Macro& node) { symbols_->Store(node.name.name); }
  void Visit(CallBlock& node) {
    if (node.call != nullptr) Collect(*node.call);
  }
  void Visit(Break&) {}
  void Visit(Continue&) {}

  Symbols* symbols_;
};

// Gives every name its place, going into the inner scopes.
class Binder {
 public:
  explicit Binder(Symbols* symbols) : symbols_(symbols) {}

  absl::Status Bind(Body& body) {
    for (Statement& statement : body) {
      OCTAVO_RETURN_IF_ERROR(
          std::visit([&](auto& node) { return Visit(node, statement.line); }, statement.node));
    }
    return absl::OkStatus();
  }

  absl::Status Bind(Expr& expr) {
    absl::Status status;
    ForEachName(expr, [&](Name& name, int line) {
      if (IsOmittedGlobal(name.name) && symbols_->IsFromContext(name.name)) {
        status = SyntaxError(line, fmt::format("the global '{}' is not handled", name.name));
      }
      BindName(&name);
    });
    return status;
  }

 private:
  void BindName(Name* name) {
    // A filter of a set block may name what nothing else does.
    if (symbols_->Find(name->name) == nullptr) symbols_->Load(name->name);
    name->place = symbols_->PlaceOf(name->name);
    name->undefined = Value::UndefinedValue(fmt::format("'{}' is undefined", name->name));
  }
  void BindTarget(Target& target) {
    ForEachTargetName(target, [&](Name& name, bool) { BindName(&name); });
  }

  absl::Status Visit(Output& node, int) {
    for (ExprPtr& part : node.parts) OCTAVO_RETURN_IF_ERROR(Bind(*part));
    return absl::OkStatus();
  }
  absl::Status Visit(If& node, int) {
    for (auto& [test, body] : node.branches) {
      OCTAVO_RETURN_IF_ERROR(Bind(*test));
      OCTAVO_RETURN_IF_ERROR(Bind(body));
    }
    return Bind(node.otherwise);
  }
  absl::Status Visit(Set& node, int) {
    BindTarget(node.target);
    return Bind(*node.value);
  }
  absl::Status Visit(SetBlock& node, int) {
    BindTarget(node.target);
    Symbols inner(symbols_, symbols_->function());
    Collector collector(&inner);
    collector.Collect(node.body);
    collector.Collect(*node.value);
    return BindScope(&inner, node.body, node.value.get(), &node.start);
  }
  absl::Status Visit(FilterBlock& node, int) {
    Symbols inner(symbols_, symbols_->function());
    Collector collector(&inner);
    collector.Collect(node.body);
    collector.Collect(*node.value);
    return BindScope(&inner, node.body, node.value.get(), &node.start);
  }
  absl::Status Visit(With& node, int) {
    Symbols inner(symbols_, symbols_->function());
    Collector collector(&inner);
    for (auto& [target, value] : node.values) {
      OCTAVO_RETURN_IF_ERROR(Bind(*value));
      collector.CollectTarget(target, true);
    }
    collector.Collect(node.body);
    Binder binder(&inner);
    for (auto& [target, value] : node.values) binder.BindTarget(target);
    return BindScope(&inner, node.body, nullptr, &node.start);
  }
  absl::Status Visit(Macro& node, int) {
    BindName(&node.name);
    return BindMacro(&node.macro);
  }
  absl::Status Visit(CallBlock& node, int) {
    if (node.call != nullptr) OCTAVO_RETURN_IF_ERROR(Bind(*node.call));
    return BindMacro(&node.macro);
  }
  absl::Status Visit(Break&, int) { return absl::OkStatus(); }
  absl::Status Visit(Continue&, int) { return absl::OkStatus(); }

  static absl::Status BindScope(Symbols* inner, Body& body, Expr* expr, ScopeStart* start) {
    Binder binder(inner);
    OCTAVO_RETURN_IF_ERROR(binder.Bind(body));
    if (expr != nullptr) OCTAVO_RETURN_IF_ERROR(binder.Bind(*expr));
    *start = inner->Start();
    return absl::OkStatus();
  }

  absl::Status BindMacro(MacroBody* macro) {
    FunctionScope function{.depth = symbols_->function()->depth + 1};
    Symbols inner(symbols_, &function);
    Collector collector(&inner);
    for (Name& parameter : macro->parameters) inner.DeclareParameter(parameter.name);
    for (ExprPtr& value : macro->defaults) collector.Collect(*value);
    collector.Collect(macro->body);
    for (auto [name, place] :
         {std::pair{"caller", &macro->caller}, std::pair{"kwargs", &macro->kwargs},
          std::pair{"varargs", &macro->varargs}}) {
      if (!LoadsName(macro->body, name)) continue;
      inner.DeclareParameter(name);
      *place = Name{name};
    }
    Binder binder(&inner);
    for (Name& parameter : macro->parameters) binder.BindName(&parameter);
    for (auto* place : {&macro->caller, &macro->kwargs, &macro->varargs}) {
      if (place->has_value()) binder.BindName(&**place);
    }
    for (ExprPtr& value : macro->defaults) OCTAVO_RETURN_IF_ERROR(binder.Bind(*value));
    OCTAVO_RETURN_IF_ERROR(BindScope(&inner, macro->body, nullptr, &macro->start));
    macro->slots = function.slots;
    return absl::OkStatus();
  }

  absl::Status Visit(For& node, int line) {
    OCTAVO_RETURN_IF_ERROR(Bind(*node.iterable));
    FunctionScope own{.depth = symbols_->function()->depth + 1};
    FunctionScope* function = node.recursive ? &own : symbols_->function();

    Symbols body(symbols_, function);
    if (StoresName(node, "loop")) return SyntaxError(line, "an assignment to 'loop' in a loop");
    if (node.recursive || LoadsName(node.body, "loop")) {
      body.DeclareParameter("loop");
      node.loop = Name{"loop"};
    }
    Collector collector(&body);
    collector.CollectTarget(node.target, true);
    collector.Collect(node.body);
    Binder binder(&body);
    if (node.loop) binder.BindName(&*node.loop);
    binder.BindTarget(node.target);
    OCTAVO_RETURN_IF_ERROR(BindScope(&body, node.body, nullptr, &node.body_start));

    Symbols otherwise(symbols_, function);
    Collector(&otherwise).Collect(node.otherwise);
    OCTAVO_RETURN_IF_ERROR(BindScope(&otherwise, node.otherwise, nullptr, &node.otherwise_start));

    if (node.test != nullptr) {
      Symbols test(symbols_, function);
      Collector(&test).CollectTarget(node.test_target, true);
      Collector(&test).Collect(*node.test);
      Binder test_binder(&test);
      test_binder.BindTarget(node.test_target);
      OCTAVO_RETURN_IF_ERROR(test_binder.Bind(*node.test));
      node.test_start = test.Start();
    }
    node.slots = own.slots;
    return absl::OkStatus();
  }

  Symbols* symbols_;
};

}  // namespace

absl::Status ResolveNames(Program* program) {
  FunctionScope function;
  Symbols symbols(nullptr, &function);
  Collector(&symbols).Collect(program->body);
  Binder binder(&symbols);
  OCTAVO_RETURN_IF_ERROR(binder.Bind(program->body));
  program->start = symbols.Start();
  program->slots = function.slots;
  return absl::OkStatus();
}

}  // namespace octavo::jinja
