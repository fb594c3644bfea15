BEGIN TRANSACTION;
CREATE TABLE instance (
	id INTEGER NOT NULL, 
	parent INTEGER NOT NULL, 
	image_type TEXT NOT NULL, 
	image_type_values TEXT NOT NULL, 
	sop_class_uid TEXT NOT NULL, 
	sop_instance_uid TEXT NOT NULL, 
	acquisition_date TEXT NOT NULL, 
	content_date TEXT NOT NULL, 
	acquisition_time TEXT NOT NULL, 
	content_time TEXT NOT NULL, 
	acquisition_number TEXT NOT NULL, 
	instance_number TEXT NOT NULL, 
	number_of_frames TEXT NOT NULL, 
	rows TEXT NOT NULL, 
	columns TEXT NOT NULL, 
	bits_allocated TEXT NOT NULL, 
	transfer_syntax_uid TEXT NOT NULL, 
	file TEXT NOT NULL, 
	data_set_offset INTEGER NOT NULL, 
	data_set_length INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	received TEXT NOT NULL, 
	calling_ae_title TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (sop_instance_uid), 
	FOREIGN KEY(parent) REFERENCES series (id), 
	UNIQUE (file)
);
INSERT INTO "instance" VALUES(1,1,'','[]','1.2.840.10008.5.1.4.1.1.2','1.2.3.0','','','','','','','','','','','1.2.840.10008.1.2.1','07/e4/6e4ec8337dc8c6b79310a8092a9af058.dcm',322,110,'fcebd92b44cae46787819a7156aca75c','2026-11-26T10:06:09.369+00:00','OLD');
INSERT INTO "instance" VALUES(2,1,'','[]','1.2.840.10008.5.1.4.1.1.2','1.2.3.1','','','','','','','','','','','1.2.840.10008.1.2.1','07/e4/c3c54303ee1bb0ca375a3cd3f4b8b93f.dcm',322,110,'6abd03066c97912ef7f5bf584495aa6d','2026-11-26T10:06:09.372+00:00','OLD');
CREATE TABLE patient (
	id INTEGER NOT NULL, 
	only_study TEXT NOT NULL, 
	patient_name TEXT NOT NULL, 
	patient_name_alphabetic TEXT NOT NULL, 
	patient_name_ideographic TEXT NOT NULL, 
	patient_name_phonetic TEXT NOT NULL, 
	patient_id TEXT NOT NULL, 
	issuer_of_patient_id TEXT NOT NULL, 
	patient_birth_date TEXT NOT NULL, 
	patient_birth_time TEXT NOT NULL, 
	patient_sex TEXT NOT NULL, 
	other_patient_ids TEXT NOT NULL, 
	other_patient_ids_values TEXT NOT NULL, 
	other_patient_names TEXT NOT NULL, 
	other_patient_names_values TEXT NOT NULL, 
	ethnic_group TEXT NOT NULL, 
	patient_comments TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (patient_id, issuer_of_patient_id, only_study)
);
INSERT INTO "patient" VALUES(1,'','DOE^JOHN','doe^john','','','P1','','','','','','[]','','[]','','');
CREATE TABLE quarantine (
	id INTEGER NOT NULL, 
	sop_class_uid TEXT NOT NULL, 
	sop_instance_uid TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	transfer_syntax_uid TEXT NOT NULL, 
	file TEXT NOT NULL, 
	data_set_offset INTEGER NOT NULL, 
	data_set_length INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	received TEXT NOT NULL, 
	calling_ae_title TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (file)
);
INSERT INTO "quarantine" VALUES(1,'1.2.840.10008.5.1.4.1.1.2','1.2.3.0','another instance has this SOP Instance UID','1.2.840.10008.1.2.1','8ca1372fc32186d6b13319e21e424b6e.dcm',322,108,'4d93137ca7a97541396848a59882de78','2026-11-26T10:06:09.374+00:00','OLD');
CREATE TABLE series (
	id INTEGER NOT NULL, 
	parent INTEGER NOT NULL, 
	series_date TEXT NOT NULL, 
	series_time TEXT NOT NULL, 
	modality TEXT NOT NULL, 
	manufacturer TEXT NOT NULL, 
	institution_name TEXT NOT NULL, 
	station_name TEXT NOT NULL, 
	series_description TEXT NOT NULL, 
	performing_physician_name TEXT NOT NULL, 
	performing_physician_name_values TEXT NOT NULL, 
	operators_name TEXT NOT NULL, 
	operators_name_values TEXT NOT NULL, 
	manufacturer_model_name TEXT NOT NULL, 
	body_part_examined TEXT NOT NULL, 
	protocol_name TEXT NOT NULL, 
	patient_position TEXT NOT NULL, 
	series_instance_uid TEXT NOT NULL, 
	series_number TEXT NOT NULL, 
	laterality TEXT NOT NULL, 
	performed_procedure_step_start_date TEXT NOT NULL, 
	performed_procedure_step_start_time TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (parent, series_instance_uid), 
	FOREIGN KEY(parent) REFERENCES study (id)
);
INSERT INTO "series" VALUES(1,1,'','','','','','','','','[]','','[]','','','','','1.2.3.1.1','','','','');
CREATE TABLE study (
	id INTEGER NOT NULL, 
	parent INTEGER NOT NULL, 
	study_date TEXT NOT NULL, 
	study_time TEXT NOT NULL, 
	accession_number TEXT NOT NULL, 
	referring_physician_name TEXT NOT NULL, 
	referring_physician_name_alphabetic TEXT NOT NULL, 
	referring_physician_name_ideographic TEXT NOT NULL, 
	referring_physician_name_phonetic TEXT NOT NULL, 
	study_description TEXT NOT NULL, 
	name_of_physicians_reading_study TEXT NOT NULL, 
	name_of_physicians_reading_study_values TEXT NOT NULL, 
	admitting_diagnoses_description TEXT NOT NULL, 
	admitting_diagnoses_description_values TEXT NOT NULL, 
	patient_age TEXT NOT NULL, 
	patient_size TEXT NOT NULL, 
	patient_weight TEXT NOT NULL, 
	occupation TEXT NOT NULL, 
	additional_patient_history TEXT NOT NULL, 
	study_instance_uid TEXT NOT NULL, 
	study_id TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (parent, study_instance_uid), 
	FOREIGN KEY(parent) REFERENCES patient (id)
);
INSERT INTO "study" VALUES(1,1,'','','','','','','','','','[]','','[]','','','','','','1.2.3.1','');
CREATE INDEX patient_birth_date_index ON patient (patient_birth_date);
CREATE INDEX patient_name_ideographic_index ON patient (patient_name_ideographic);
CREATE INDEX patient_name_phonetic_index ON patient (patient_name_phonetic);
CREATE INDEX patient_name_alphabetic_index ON patient (patient_name_alphabetic);
CREATE INDEX ix_quarantine_sop_instance_uid ON quarantine (sop_instance_uid);
CREATE INDEX accession_number_index ON study (accession_number);
CREATE INDEX study_date_index ON study (study_date);
CREATE INDEX study_instance_uid_index ON study (study_instance_uid);
CREATE INDEX series_instance_uid_index ON series (series_instance_uid);
CREATE INDEX instance_parent_index ON instance (parent);
COMMIT;