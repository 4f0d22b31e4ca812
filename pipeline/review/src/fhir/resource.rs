//! The FHIR resources and data types that `fhir` writes, as far as it fills them.
//!
//! Place: filled by `fhir` alone. Invariant: field names and their order are those of hl7.org/fhir/R4; what is not known is left
//! out, never null.

use serde::Serialize;

/// A code of a code system.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coding {
    pub(super) system: &'static str,
    pub(super) code: String,
    pub(super) display: String,
}

/// A concept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CodeableConcept {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) coding: Vec<Coding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
}

/// A name in somebody's scheme.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Identifier {
    pub(super) system: &'static str,
    pub(super) value: String,
}

/// A link to another resource, or to somebody outside of this bundle.
#[derive(Clone, Debug, PartialEq, Default, Serialize)]
pub struct Reference {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identifier: Option<Identifier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) display: Option<String>,
}

/// From one time to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Period {
    pub(super) start: String,
    pub(super) end: String,
}

/// A number with its unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quantity {
    pub(super) value: f64,
    pub(super) unit: &'static str,
    pub(super) system: &'static str,
    pub(super) code: &'static str,
}

/// Samples of one lead: value in the unit of the origin = origin + sample x factor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SampledData {
    pub(super) origin: Quantity,
    /// Milliseconds between two samples.
    pub(super) period: f64,
    pub(super) factor: f64,
    pub(super) dimensions: u32,
    pub(super) data: String,
}

/// One part of an observation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    pub(super) code: CodeableConcept,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value_quantity: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value_sampled_data: Option<SampledData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data_absent_reason: Option<CodeableConcept>,
}

/// What is said about a resource as a whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Meta {
    pub(super) security: Vec<Coding>,
}

/// A resource of the bundle.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "resourceType")]
pub enum Resource {
    /// The report.
    DiagnosticReport(Box<DiagnosticReport>),
    /// The samples, or the measurements.
    Observation(Box<Observation>),
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiagnosticReport {
    pub(super) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meta: Option<Meta>,
    pub(super) identifier: Vec<Identifier>,
    pub(super) status: &'static str,
    pub(super) category: Vec<CodeableConcept>,
    pub(super) code: CodeableConcept,
    pub(super) effective_period: Period,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issued: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) results_interpreter: Vec<Reference>,
    pub(super) result: Vec<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) conclusion: Option<String>,
}

/// Samples, or measurements.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    pub(super) id: String,
    pub(super) status: &'static str,
    pub(super) category: Vec<CodeableConcept>,
    pub(super) code: CodeableConcept,
    pub(super) effective_period: Period,
    pub(super) device: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<CodeableConcept>,
    pub(super) component: Vec<Component>,
}

/// One resource with the address that others name it by.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleEntry {
    pub(super) full_url: String,
    pub(super) resource: Resource,
}

/// A report and what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    pub(super) resource_type: &'static str,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) timestamp: String,
    pub(super) entry: Vec<BundleEntry>,
}
