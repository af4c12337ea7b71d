// A dashboard of dtm in Grafana's own words: the classic model, with every panel tied to its plug-in's options and
// field options, every target to Prometheus' query and every unit to those Grafana knows. Grafana's `Dashboard` alone
// leaves all four open.

import type * as schema from "@grafana/schema";
import type * as bargauge from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type * as nodegraph from "@grafana/schema/dist/esm/raw/composable/nodegraph/panelcfg/x/NodeGraphPanelCfg_types.gen";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
import type { Dataquery } from "@grafana/grafana-foundation-sdk/prometheus";
import type * as units from "@grafana/grafana-foundation-sdk/units";

// JSON holds an enum's value, TypeScript wants its member.
type Json<T> = unknown extends T
  ? T
  : T extends string
    ? `${T}`
    : T extends number
      ? number extends T
        ? T
        : `${T}` extends `${infer Value extends number}`
          ? Value
          : T
      : T extends readonly (infer Item)[]
        ? Json<Item>[]
        : T extends object
          ? { [Key in keyof T]: Json<T[Key]> }
          : T;

type Unit = (typeof units)[keyof typeof units];

type Datasource = { type: "prometheus"; uid: "${datasource}" };

type Target = Json<Omit<Dataquery, "_implementsDataqueryVariant" | "datasource" | "refId">> & {
  datasource: Datasource;
  refId: string;
};

type Standard = Omit<Json<schema.FieldConfig>, "custom" | "unit">;

// A property of an override is one of the defaults' own, or `custom.` and one of the plug-in's.
type Property<Custom> =
  | { [Key in keyof Standard & string]-?: { id: Key; value: Standard[Key] } }[keyof Standard & string]
  | { [Key in keyof Custom & string]-?: { id: `custom.${Key}`; value: Custom[Key] } }[keyof Custom & string]
  | { id: "unit"; value: Unit };

type Override<Custom> = {
  matcher: { id: "byName" | "byRegexp" | "byFrameRefID" | "byType"; options: string };
  properties: Property<Custom>[];
};

type Common = Omit<Json<schema.Panel>, "datasource" | "fieldConfig" | "options" | "targets" | "transformations" | "type">;

type Transformation =
  | { id: "merge"; options: Record<string, never> }
  | {
      id: "organize";
      options: {
        excludeByName: Record<string, boolean>;
        includeByName: Record<string, boolean>;
        indexByName: Record<string, number>;
        renameByName: Record<string, string>;
      };
    }
  | {
      // Of the panel's own names for what it draws, a query can only give a value one by calculating it.
      id: "calculateField";
      options: {
        alias: "mainstat" | "secondarystat";
        binary: { left: `Value #${string}`; operator: "+" | "-" | "*" | "/"; right: string };
        mode: "binary";
        replaceFields: boolean;
        timeSeries: false;
      };
    };

type NodeGraphOptions = Omit<nodegraph.Options, "edges" | "nodes"> & {
  edges: Omit<NonNullable<nodegraph.Options["edges"]>, "mainStatUnit"> & { mainStatUnit: Unit };
  nodes: Omit<NonNullable<nodegraph.Options["nodes"]>, "mainStatUnit"> & { mainStatUnit: Unit };
};

type PanelOf<Type extends string, Options, Custom> = Common & {
  type: Type;
  id: number;
  title: string;
  description: string;
  datasource: Datasource;
  gridPos: Json<schema.GridPos>;
  targets: Target[];
  transformations?: Transformation[];
  options: Json<Options>;
  fieldConfig: {
    defaults: Standard & { custom?: Json<Custom>; unit: Unit };
    overrides: Override<Json<Custom>>[];
  };
};

type GridPos = Json<schema.GridPos>;

type Panel =
  | PanelOf<"bargauge", bargauge.Options, Record<never, never>>
  | PanelOf<"nodeGraph", NodeGraphOptions, Record<never, never>>
  | PanelOf<"stat", stat.Options, Record<never, never>>
  | PanelOf<"table", table.Options, table.FieldConfig>
  | PanelOf<"timeseries", timeseries.Options, timeseries.FieldConfig>
  | (Omit<Json<schema.RowPanel>, "panels"> & { gridPos: GridPos; panels: Panel[] });

// Anything a dashboard holds that Grafana has no word for is an error.
export type Dashboard = Omit<Json<schema.Dashboard>, "panels" | "schemaVersion"> & {
  panels: Panel[];
  schemaVersion: 39 | 40 | 41;
  title: string;
  uid: string;
};
